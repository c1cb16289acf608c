"""Where wanted namespaces are found, as people write it: `pid:4711`, `name:blue`, `docker:web`, `net:[4026531840]`, ...

The same strings serve the command line, the Python API, the policy (with globs) and the audit record.
"""

import enum
import re
from typing import NamedTuple, Self

from nsbroker.errors import InvalidTarget
from nsbroker.model.identity import NAME_RULE, NamespaceId, NamespaceType, is_name

ENGINES = ("docker", "podman", "containerd", "cri", "runc", "crun", "lxc", "incus", "machined")
"""What runs containers."""

UNIT_SUFFIXES = (".service", ".scope", ".socket", ".mount", ".swap")
"""The kinds of systemd units that have processes."""

PID_MAX = 2**31 - 1

_NAME_MAX = 255
_PART = "[A-Za-z0-9_+-][A-Za-z0-9_.+-]*"
_CONTAINER = re.compile(f"{_PART}(/{_PART}){{0,2}}")
_CONTAINER_RULE = "letters, digits, '_', '.', '+' and '-', and at most two '/' between such parts"
_UNIT = re.compile(rf"[A-Za-z0-9:_.\\@-]+({'|'.join(map(re.escape, UNIT_SUFFIXES))})")


class Kind(enum.StrEnum):
    """The kinds of target.  All but PIDFD can be written down."""

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
    """A parsed target.  `value` is what stands after the colon; `engine` is empty for any engine."""

    kind: Kind
    value: str = ""
    pid: int = 0
    tid: int = 0
    engine: str = ""

    @classmethod
    def process(cls, pid: int) -> Self:
        """The process `pid`, in the caller's PID namespace."""
        if type(pid) is not int or not 0 < pid <= PID_MAX:
            raise InvalidTarget(f"pid:{pid}: a process number is an integer from 1 to {PID_MAX}")
        return cls(Kind.PID, str(pid), pid)

    @classmethod
    def thread(cls, pid: int, tid: int) -> Self:
        """The thread `tid` of the process `pid`."""
        for number in (pid, tid):
            if type(number) is not int or not 0 < number <= PID_MAX:
                raise InvalidTarget(f"tid:{pid}/{tid}: process and thread numbers are integers from 1 to {PID_MAX}")
        return cls(Kind.TID, f"{pid}/{tid}", pid, tid)

    @classmethod
    def pidfd(cls, fd: int) -> Self:
        """The process of a pidfd (borrowed) of the caller's.  It has no written form: numbers of fds mean nothing to others."""
        if type(fd) is not int or fd < 0:
            raise InvalidTarget(f"{fd} is no file descriptor")
        return cls(Kind.PIDFD, str(fd))

    @classmethod
    def named(cls, name: str) -> Self:
        """What `ip netns` (or the broker) knows as `name`."""
        if not is_name(name):
            raise InvalidTarget(f"name:{name[:80]!r}: a name has {NAME_RULE}")
        return cls(Kind.NAME, name)

    @classmethod
    def namespace(cls, text: str) -> Self:
        """A namespace by its id, such as `net:[4026531840]`."""
        return cls(Kind.NAMESPACE, str(NamespaceId.parse(text)))

    @classmethod
    def path(cls, path: str) -> Self:
        """A namespace by the file it is bound to.  Absolute and without detours, since a rule must be able to name it."""
        parts = path.split("/")
        if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]) or not _printable(path, 4095):
            raise InvalidTarget(f"path:{path[:80]!r}: a path is absolute, without '//', '.', '..' or control characters")
        return cls(Kind.PATH, path)

    @classmethod
    def container(cls, name: str, engine: str = "") -> Self:
        """A container by name, id, or prefix of an id; of the named engine, or of any."""
        if engine and engine not in ENGINES:
            raise InvalidTarget(f"{engine!r} is no engine: use one of {', '.join(ENGINES)}")
        if not is_container_name(name):
            raise InvalidTarget(f"{engine or 'container'}:{name[:80]!r}: a container's name or id has {_CONTAINER_RULE}")
        return cls(Kind.CONTAINER, name, engine=engine)

    @classmethod
    def unit(cls, name: str) -> Self:
        """A systemd unit, such as `nginx.service`."""
        if len(name) > _NAME_MAX or not _UNIT.fullmatch(name):
            raise InvalidTarget(f"unit:{name[:80]!r}: a unit is written with its suffix, one of {', '.join(UNIT_SUFFIXES)}")
        return cls(Kind.UNIT, name)

    @classmethod
    def peer(cls) -> Self:
        """The process that connected to the broker."""
        return cls(Kind.SELF)

    @classmethod
    def parse(cls, text: str) -> Self:
        """`text` as a target; raises InvalidTarget with what is wrong and what would be right."""
        if text == "self":
            return cls.peer()
        kind, colon, value = text.partition(":")
        if not colon:
            raise InvalidTarget(f"{text[:80]!r} is no target: write KIND:VALUE, such as pid:4711, name:blue")
        match kind:
            case "pid":
                return cls.process(_number(text, value))
            case "tid":
                pid, slash, tid = value.partition("/")
                if not slash:
                    raise InvalidTarget(f"{text[:80]!r}: write tid:PROCESS/THREAD, such as tid:4711/4715")
                return cls.thread(_number(text, pid), _number(text, tid))
        constructors = {"name": cls.named, "path": cls.path, "unit": cls.unit, "container": cls.container}
        if kind in constructors:
            return constructors[kind](value)
        if kind in ENGINES:
            return cls.container(value, kind)
        if kind in _TYPE_NAMES:
            return cls.namespace(text)
        import difflib  # only on this path: the daemon's memory counts

        near = difflib.get_close_matches(kind, KINDS, 1)
        hint = f"did you mean {near[0]}:?" if near else f"known are {', '.join(f'{known}:' for known in KINDS)} and self"
        raise InvalidTarget(f"{text[:80]!r}: there is no kind of target {kind[:80]!r}; {hint}")

    def __str__(self) -> str:
        match self.kind:
            case Kind.SELF:
                return "self"
            case Kind.NAMESPACE:
                return self.value
            case Kind.CONTAINER:
                return f"{self.engine or 'container'}:{self.value}"
        return f"{self.kind}:{self.value}"


_TYPE_NAMES = frozenset(NamespaceType)
KINDS = ("pid", "tid", "name", "container", *ENGINES, "unit", *NamespaceType, "path")
"""What can stand before the colon of a target."""


def _number(text: str, digits: str) -> int:
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 10):
        raise InvalidTarget(f"{text[:80]!r}: {digits[:20]!r} is no process or thread number (1 to {PID_MAX})")
    return int(digits)


def _printable(text: str, most: int) -> bool:
    return 0 < len(text) <= most and text.isprintable()


def is_container_name(text: str) -> bool:
    """Whether `text` can be the name or the id of a container: one part, or up to three where an engine has namespaces."""
    return len(text) <= _NAME_MAX and _CONTAINER.fullmatch(text) is not None
