"""Namespaces of docker's containers without the broker, for programs that may use docker's socket: root, mostly.

docker is asked over its HTTP API where the container's first process is (Engine API, "Inspect a container").  That process is
pinned, and its control group must show that it belongs to the container.
"""

import http.client
import os
import socket as _socket
import urllib.parse
from collections.abc import Mapping
from typing import TypeVar

import msgspec
from msgspec import Struct

from nsbroker.errors import AmbiguousTarget, EngineUnavailable, InvalidTarget, NoSuchTarget, PermissionDenied
from nsbroker.linux.process import Process
from nsbroker.linux.socket_options import peer_credentials
from nsbroker.model.control_group import is_containers_group
from nsbroker.model.identity import NamespaceType
from nsbroker.model.target import Target
from nsbroker.namespace.handle import Namespace
from nsbroker.namespace.opening import pin

_TIMEOUT = 10.0
_ANSWER_MAX = 16 * 1024 * 1024
_STATES: Mapping[str, str] = {
    "created": "the container was created but is not started yet",
    "restarting": "the container is restarting and has no process right now: try again",
}
T = TypeVar("T")


class _State(Struct, rename="pascal"):
    status: str = ""
    pid: int = 0


class _Container(Struct, rename="pascal"):
    id: str
    state: _State


class _Listed(Struct, rename="pascal"):
    id: str


def from_docker(container: str, type: str = "net", *, socket: str | os.PathLike[str] = "/run/docker.sock") -> Namespace:
    """Open a namespace of a docker container, without the broker; the handle is the caller's to close.

    `container` is its name, its id, or a prefix of its id that no other container has.  docker itself looks it up: an exact id or
    name comes before a prefix.  `socket` is the path of docker's socket.  This takes the right to use that socket, and
    PTRACE_MODE_READ access to the container's first process (ptrace(2)).

    Raises InvalidTarget for what cannot be a name or an id, NoSuchTarget, AmbiguousTarget, EngineUnavailable, PermissionDenied,
    InvalidType.
    """
    ns_type = NamespaceType.parse(type)
    target = Target.container(container, "docker")
    if "/" in container:
        raise InvalidTarget(f"{str(target)[:80]!r}: a service of docker compose takes the broker; write a container's name or id")
    found = _find(container, str(target), os.fspath(socket))
    try:
        process = _pin(found, str(target))
    except NoSuchTarget:
        if not found.state.pid:
            raise
        # The container may have been restarted after docker answered and before its process was pinned.
        process = _pin(_find(container, str(target), os.fspath(socket)), str(target))
    with process:
        return Namespace.from_process(process, ns_type, str(target))


def _find(word: str, target: str, place: str) -> _Container:
    status, body = _get(place, f"/containers/{urllib.parse.quote(word)}/json")
    if status == 200:
        return _decode(body, _Container, place)
    if status == 404:
        raise NoSuchTarget(target, "docker has no container with that name or id, or an id that begins with it")
    # Several ids may begin with the word.  Versions of docker report that with different statuses.
    listed, body = _get(place, "/containers/json?all=1")
    ids = [each.id for each in _decode(body, list[_Listed], place)] if listed == 200 else []
    several = sorted(f"docker:{each}" for each in ids if each.startswith(word))
    if len(several) > 1:
        raise AmbiguousTarget(target, several)
    raise EngineUnavailable("docker", f"{place} answered with status {status}")


def _pin(container: _Container, target: str) -> Process:
    """Pin the container's first process (the caller's to close), and prove that it is the container's."""
    if not container.state.pid:
        raise NoSuchTarget(target, _STATES.get(container.state.status, "the container has ended: start it first"))
    process = pin(target, container.state.pid)
    try:
        groups = (container.id, f"docker-{container.id}.scope")
        if not any(is_containers_group(path, groups, container.id) for path in process.cgroups().values()):
            raise NoSuchTarget(
                target, f"process {container.state.pid}, which docker names, is not the container's: that has just ended"
            )
    except ProcessLookupError as error:
        process.close()
        raise NoSuchTarget(target, "the container's process has ended") from error
    except BaseException:
        process.close()
        raise
    return process


class _Connection(http.client.HTTPConnection):
    """An HTTP connection over the AF_UNIX socket at `place`, which root or this process's user must serve."""

    def __init__(self, place: str) -> None:
        super().__init__("docker", timeout=_TIMEOUT)
        self._place = place

    def connect(self) -> None:
        self.sock = _socket.socket(_socket.AF_UNIX)
        self.sock.settimeout(_TIMEOUT)
        self.sock.connect(self._place)
        uid = peer_credentials(self.sock).uid
        if uid not in (0, os.geteuid()):
            raise EngineUnavailable("docker", f"{self._place} is served by uid {uid}, not by root")


def _get(place: str, path: str) -> tuple[int, bytes]:
    """GET `path` and return the status and the body of the answer.  Raises EngineUnavailable, PermissionDenied."""
    connection = _Connection(place)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(_ANSWER_MAX + 1)
    except PermissionError as error:
        raise PermissionDenied(
            f"use docker's socket {place}", "its permissions forbid it; the broker may open it for you"
        ) from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise EngineUnavailable("docker", f"{place}: {reason or error or error.__class__.__name__}") from error
    finally:
        connection.close()
    if len(body) > _ANSWER_MAX:
        raise EngineUnavailable("docker", f"{place}: the answer has more than {_ANSWER_MAX} bytes")
    return response.status, body


def _decode(body: bytes, kind: type[T], place: str) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise EngineUnavailable("docker", f"{place} sent an answer that makes no sense: {error}") from error
