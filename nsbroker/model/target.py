"""Targets: where to find the wanted namespaces, written as `pid:4711`, `name:blue`, `docker:web`, `net:[4026531840]`, ...

The command line, the Python API, the policy (with globs) and the audit record all write targets in this way.
"""

import enum
import re
from typing import NamedTuple, Self

from nsbroker.errors import InvalidTarget
from nsbroker.model.identity import NAME_RULE, NamespaceId, NamespaceType, is_name

ENGINES = ("docker", "podman", "containerd", "cri", "runc", "crun", "lxc", "incus", "machined")
"""The container engines."""

UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
"""The suffixes of the systemd units that can have processes."""

PID_MAX = 2**31 - 1

_NAME_MAX = 255
_PATH_MAX = 4095
_PART = "[A-Za-z0-9_+-][A-Za-z0-9_.+-]*"
_CONTAINER = re.compile(f"{_PART}(/{_PART}){{0,2}}")
_CONTAINER_RULE = "letters, digits, '_', '.', '+' and '-', and at most two '/' between such parts"
_UNIT = re.compile(rf"[A-Za-z0-9:_.\\@-]+({'|'.join(map(re.escape, UNIT_SUFFIXES))})")


class TargetKind(enum.StrEnum):
    """The kinds of target.  Each has a written form, except PIDFD."""

    PID = "pid"
    TID = "tid"
    PIDFD = "pidfd"
    NAME = "name"
    CONTAINER = "container"
    UNIT = "unit"
    NAMESPACE = "namespace"
    PATH = "path"
    SELF = "self"


class Target(NamedTuple):
    """A parsed target.  `value` is the text after the colon; `engine` is empty if any engine will do."""

    kind: TargetKind
    value: str = ""
    pid: int = 0
    tid: int = 0
    engine: str = ""

    @classmethod
    def process(cls, pid: int) -> Self:
        """Return the process `pid`, a number in the caller's PID namespace.  Raises InvalidTarget."""
        if type(pid) is not int or not 0 < pid <= PID_MAX:
            raise InvalidTarget(f"pid:{pid}: a process number is an integer from 1 to {PID_MAX}")
        return cls(TargetKind.PID, str(pid), pid)

    @classmethod
    def thread(cls, pid: int, tid: int) -> Self:
        """Return the thread `tid` of the process `pid`.  Raises InvalidTarget."""
        for number in (pid, tid):
            if type(number) is not int or not 0 < number <= PID_MAX:
                raise InvalidTarget(f"tid:{pid}/{tid}: process and thread numbers are integers from 1 to {PID_MAX}")
        return cls(TargetKind.TID, f"{pid}/{tid}", pid, tid)

    @classmethod
    def pidfd(cls, fd: int) -> Self:
        """Return the process of the pidfd `fd` (borrowed).  Raises InvalidTarget.

        This target has no written form, because the number of a descriptor has no meaning in another process.
        """
        if type(fd) is not int or fd < 0:
            raise InvalidTarget(f"{fd!r} is no file descriptor")
        return cls(TargetKind.PIDFD, str(fd))

    @classmethod
    def named(cls, name: str) -> Self:
        """Return the namespace that `ip netns` or the broker knows as `name`.  Raises InvalidTarget."""
        if not is_name(name):
            raise InvalidTarget(f"name:{name[:80]!r}: a name has {NAME_RULE}")
        return cls(TargetKind.NAME, name)

    @classmethod
    def namespace(cls, text: str) -> Self:
        """Return the namespace with the id `text`, such as `net:[4026531840]`.  Raises InvalidTarget."""
        return cls(TargetKind.NAMESPACE, str(NamespaceId.parse(text)))

    @classmethod
    def path(cls, path: str) -> Self:
        """Return the namespace that is bound to the file `path`.  Raises InvalidTarget.

        The path must be absolute, without `//`, `.` and `..`, so that a file has only one spelling that rules can name.
        """
        parts = path.split("/")
        if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]) or not _is_printable(path, _PATH_MAX):
            raise InvalidTarget(f"path:{path[:80]!r}: a path is absolute, without '//', '.', '..' or control characters")
        return cls(TargetKind.PATH, path)

    @classmethod
    def container(cls, name: str, engine: str = "") -> Self:
        """Return a container by its name, its id, or a prefix of its id; of `engine`, or of any engine.  Raises InvalidTarget."""
        if engine and engine not in ENGINES:
            raise InvalidTarget(f"{engine!r} is no engine: use one of {', '.join(ENGINES)}")
        if not is_container_name(name):
            raise InvalidTarget(f"{engine or 'container'}:{name[:80]!r}: a container's name or id has {_CONTAINER_RULE}")
        return cls(TargetKind.CONTAINER, name, engine=engine)

    @classmethod
    def unit(cls, name: str) -> Self:
        """Return the systemd unit `name`, such as `nginx.service`.  Raises InvalidTarget."""
        if len(name) > _NAME_MAX or not _UNIT.fullmatch(name):
            raise InvalidTarget(f"unit:{name[:80]!r}: a unit is written with its suffix, one of {', '.join(UNIT_SUFFIXES)}")
        return cls(TargetKind.UNIT, name)

    @classmethod
    def peer(cls) -> Self:
        """Return the target `self`: the process that is connected to the broker."""
        return cls(TargetKind.SELF)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a written target.  Raises InvalidTarget, which says what is wrong and how to write it."""
        if not isinstance(text, str):
            raise InvalidTarget(f"{str(text)[:80]} is no target: a target is text such as 'pid:4711', or a Target")
        if text == "self":
            return cls.peer()
        kind, colon, value = text.partition(":")
        if not colon:
            raise InvalidTarget(f"{text[:80]!r} is no target: write KIND:VALUE, such as {_suggest(text)}")
        match kind:
            case "pid":
                return cls.process(_parse_number(text, value))
            case "tid":
                pid, slash, tid = value.partition("/")
                if not slash:
                    raise InvalidTarget(f"{text[:80]!r}: write tid:PROCESS/THREAD, such as tid:4711/4715")
                return cls.thread(_parse_number(text, pid), _parse_number(text, tid))
        constructors = {"name": cls.named, "path": cls.path, "unit": cls.unit, "container": cls.container}
        if kind in constructors:
            return constructors[kind](value)
        if kind in ENGINES:
            return cls.container(value, kind)
        if kind in _TYPE_NAMES:
            return cls.namespace(text)
        import difflib  # Imported only here, to save memory in the daemon.

        near = difflib.get_close_matches(kind, KINDS, 1)
        hint = f"did you mean {near[0]}:?" if near else f"known are {', '.join(f'{known}:' for known in KINDS)} and self"
        raise InvalidTarget(f"{text[:80]!r}: there is no kind of target {kind[:80]!r}; {hint}")

    def __str__(self) -> str:
        kind = self.kind
        if kind is TargetKind.SELF:
            return "self"
        if kind is TargetKind.NAMESPACE:
            return self.value
        if kind is TargetKind.CONTAINER:
            return f"{self.engine or 'container'}:{self.value}"
        return f"{kind}:{self.value}"


_TYPE_NAMES = frozenset(NamespaceType)
KINDS = ("pid", "tid", "name", "container", *ENGINES, "unit", *NamespaceType, "path")
"""The words that can stand before the colon of a target."""


def _suggest(text: str) -> str:
    """Return targets that may be meant by `text`, which has no kind."""
    if text.isascii() and text.isdigit() and len(text) <= 10:
        return f"pid:{text}"
    return f"name:{text} or container:{text}" if is_name(text) and len(text) <= 80 else "pid:4711 or name:blue"


def _parse_number(text: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise InvalidTarget(f"{text[:80]!r}: {digits[:20]!r} is no process or thread number (1 to {PID_MAX})")
    return int(digits)


def _is_printable(text: str, length_max: int) -> bool:
    return 0 < len(text) <= length_max and text.isprintable()


def is_container_name(text: str) -> bool:
    """Return whether `text` can be the name or the id of a container.

    It has one part, or up to three with `/` between them, for engines that have namespaces of their own.
    """
    return len(text) <= _NAME_MAX and _CONTAINER.fullmatch(text) is not None
