"""Calls that the dispatcher refuses: unknown methods, bad parameters and indices, and descriptors too many."""

import os
from typing import Any

import msgspec
import pytest

from tests.world import Daemon


def call(daemon: Daemon, method: str, parameters: object, fds: tuple[int, ...] = (), **header: object) -> dict[str, Any]:
    """Send one raw call and return its reply.  Fds that come with the reply are closed."""
    from nsbroker.linux import ancillary, descriptors

    with daemon.raw() as sock:
        ancillary.send(sock, msgspec.json.encode({"method": method, "parameters": parameters, **header}) + b"\0", fds)
        data, got = ancillary.receive_piece(sock, bytearray(70000), b"\0")
        descriptors.close_all(got)
    assert data, "the daemon hung up"
    reply: dict[str, Any] = msgspec.json.decode(data[:-1])
    return reply


@pytest.mark.parametrize(
    ("parameters", "parameter"),
    [
        ({}, "target"),
        ({"target": {}}, "target"),
        ({"target": {"pid": 1, "name": "x"}}, "target"),
        ({"target": {"pid": -1}}, "target.pid"),
        ({"target": {"pid": 2**63}}, "target.pid"),
        ({"target": {"pid": True}}, "target.pid"),
        ({"target": {"pid": 1.5}}, "target.pid"),
        ({"target": {"pid": "1"}}, "target.pid"),
        ({"target": {"pids": 1}}, "target.pids"),
        ({"target": {"name": "../blue"}}, "target"),
        ({"target": {"name": "a\0b"}}, "target"),
        ({"target": {"name": "x" * 300}}, "target"),
        ({"target": {"pid": 1}, "types": ["network"]}, "types[0]"),
        ({"target": {"pid": 1}, "types": []}, "types"),
        ({"target": {"pid": 1}, "types": ["net", "net"]}, "types"),
        ({"target": {"pid": 1}, "types": [None]}, "types[0]"),
        ({"target": {"pid": 1}, "tyeps": ["net"]}, "tyeps"),
        ({"target": [None]}, "target"),
        ({"target": {"pidFileDescriptor": 0}}, "target.pidFileDescriptor"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_named(daemon: Daemon, parameters: dict[str, object], parameter: str) -> None:
    reply = call(daemon, "io.nsbroker.Broker.Open", parameters)
    assert reply == {"error": "org.varlink.service.InvalidParameter", "parameters": {"parameter": parameter}}


@pytest.mark.parametrize("index", [-1, 1, 2**63, True, 1.5, "0", None])
def test_a_bad_index_is_refused_and_its_descriptors_closed(daemon: Daemon, index: object) -> None:
    before = daemon.snapshot()
    pidfd = os.pidfd_open(os.getpid())
    reply = call(daemon, "io.nsbroker.Broker.Open", {"target": {"pidFileDescriptor": index}}, (pidfd,))
    assert reply["error"] == "org.varlink.service.InvalidParameter"
    os.close(pidfd)
    daemon.settles_at(before)


def test_a_descriptor_too_many_is_refused_by_every_method(daemon: Daemon) -> None:
    before = daemon.snapshot()
    pidfd = os.pidfd_open(os.getpid())
    calls: list[tuple[str, dict[str, object], tuple[int, ...]]] = [
        ("io.nsbroker.Broker.Open", {"target": {"pidFileDescriptor": 0}}, (pidfd, pidfd)),
        ("io.nsbroker.Broker.Open", {"target": {"pid": os.getpid()}}, (pidfd,)),
        ("io.nsbroker.Broker.WhoAmI", {}, (pidfd,)),
        ("io.nsbroker.Broker.GetStatus", {}, (pidfd,)),
        ("io.nsbroker.Broker.Explain", {"target": {"pid": os.getpid()}}, (pidfd,)),
        ("org.varlink.service.GetInfo", {}, (pidfd,)),
        ("org.varlink.service.GetInterfaceDescription", {"interface": "io.nsbroker.Broker"}, (pidfd,) * 253),
    ]
    for method, parameters, fds in calls:
        assert call(daemon, method, parameters, fds)["error"] == "org.varlink.service.InvalidParameter", method
    os.close(pidfd)
    daemon.settles_at(before)


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("io.nsbroker.Broker.Opne", "org.varlink.service.MethodNotFound"),
        ("io.nsbroker.Other.Open", "org.varlink.service.InterfaceNotFound"),
        ("Open", "org.varlink.service.MethodNotFound"),
        ("", "org.varlink.service.MethodNotFound"),
    ],
)
def test_an_unknown_method_is_named(daemon: Daemon, method: str, error: str) -> None:
    assert call(daemon, method, {})["error"] == error


def test_upgrade_is_refused(daemon: Daemon) -> None:
    assert call(daemon, "io.nsbroker.Broker.WhoAmI", {}, upgrade=True)["error"] == "org.varlink.service.MethodNotImplemented"
