"""Every command in many environments: a failure is always one line and an exit code, never a traceback."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from nsbroker.cli import main
from tests.cli.made_up import NASTY
from tests.client.every_client import impostor, read_call
from tests.world import SLOWNESS, Daemon

pytestmark = pytest.mark.once

EVERY_COMMAND = str(Path(__file__).with_name("every_command.py"))
COMMANDS: dict[str, list[str]] = {
    "show": ["self"],
    "open": ["self", "--", "true"],
    "exec": ["self", "--", "true"],
    "via": ["self", "--", "true"],
    "forward": ["nonsense", "80"],
    "connect": ["self", "127.0.0.1", "1"],
    "cat": ["self", "net/dev"],
    "devices": ["self"],
    "add-interface": ["self", "a/b", "--veth", "self:c"],
    "capture": ["name:nobody-has-this", "-c", "1"],
    "extcap": ["--extcap-interfaces"],
    "install-extcap": ["--help"],
    "remove-extcap": ["--help"],
    "ls": [],
    "tree": [],
    "watch": ["--type", "nonsense"],
    "map": ["x.svg"],
    "containers": [],
    "exporter": ["--listen", "nonsense"],
    "create": ["a/b"],
    "hold": ["self", "a/b"],
    "release": ["nobody-has-this"],
    "list-held": [],
    "whoami": [],
    "explain": ["self"],
    "grant": ["user:0", "self", "--namespaces", "net", "--for", "1h"],
    "grants": [],
    "revoke": ["grant-x-1"],
    "check-config": [],
    "status": [],
    "serve": ["--idle-timeout", "-1"],
    "install-units": ["--help"],
    "remove-units": ["--help"],
    "doctor": [],
    "completion": ["bash"],
}
WITH_JSON = (
    *("show", "devices", "ls", "tree", "containers", "list-held", "whoami", "explain", "check-config", "status", "doctor"),
)


class Environment(NamedTuple):
    """What differs from a usual environment."""

    options: tuple[str, ...] = ()
    variables: Mapping[str, str] = {}
    redirect: str = ""
    prepare: Callable[[], None] | None = None
    arguments: tuple[bytes, ...] = ()
    # Whether commands that would otherwise succeed fail in this environment.
    breaks: bool = False
    # Which of standard output (1) and standard error (2) can be read.
    readable: tuple[int, ...] = (1, 2)
    # A command that runs the interpreter, and a context in which it runs.
    prefix: tuple[str, ...] = ()
    around: Callable[[], AbstractContextManager[None]] = nullcontext


def few_files() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))


def narrow() -> None:
    os.umask(0o077)


@contextmanager
def full_run() -> Iterator[None]:
    """Fill /run, which belongs to the tests alone, so that no page is free."""
    there = os.statvfs("/run")
    resize("/run", str((there.f_blocks - there.f_bfree) * there.f_frsize + 2**20))
    full = Path("/run/full")
    try:
        with full.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert os.statvfs("/run").f_bavail == 0
        yield
    finally:
        full.unlink()
        resize("/run", "50%")


def resize(place: str, size: str) -> None:
    # Ignore the present mount options: they can name users that do not exist in this user namespace.
    subprocess.run(["mount", "--options-mode=ignore", "-o", f"remount,size={size}", place], check=True)


def broken_pipe() -> None:
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


ASCII = {"PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "LC_ALL": "C"}
ENVIRONMENTS: dict[str, Environment] = {
    "as usual": Environment(),
    "PYTHONOPTIMIZE=2": Environment(variables={"PYTHONOPTIMIZE": "2"}),
    "-O": Environment(options=("-O",)),
    "-OO": Environment(options=("-OO",)),
    "-X dev": Environment(options=("-X", "dev")),
    "LANG=C": Environment(variables=ASCII),
    "ascii": Environment(variables={"PYTHONIOENCODING": "ascii"}),
    "latin-1": Environment(variables={"PYTHONIOENCODING": "latin-1"}),
    "ascii, strict": Environment(variables={"PYTHONIOENCODING": "ascii:strict"}),
    "closed input": Environment(redirect="<&-"),
    "closed output": Environment(redirect=">&-", breaks=True, readable=(2,)),
    "closed errors": Environment(redirect="2>&-", readable=(1,)),
    "all closed": Environment(redirect="<&- >&- 2>&-", breaks=True, readable=()),
    "full output": Environment(redirect=">/dev/full", breaks=True, readable=(2,)),
    "full errors": Environment(redirect="2>/dev/full", readable=(1,)),
    "both full": Environment(redirect=">/dev/full 2>&1", breaks=True, readable=()),
    "broken pipe": Environment(prepare=broken_pipe, breaks=True, readable=(2,)),
    "TERM=dumb": Environment(variables={"TERM": "dumb"}),
    "no HOME": Environment(variables={"HOME": ""}),
    "umask 077": Environment(prepare=narrow),
    "few files": Environment(prepare=few_files),
    "a full /run": Environment(around=full_run),
    "a read-only /run": Environment(prefix=("unshare", "--mount", "sh", "-ec", 'mount -o remount,bind,ro /run; exec "$@"', "sh")),
    "arguments that are no text": Environment(arguments=(b"\xff\x1b[31m\xc2\x9b",), breaks=True),
}


class Done(NamedTuple):
    """The result of a command."""

    code: int
    output: bytes
    errors: bytes


def start(program: Sequence[str], environment: Environment, address: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
    line: list[str] = [*environment.prefix, sys.executable, *environment.options, *program]
    if environment.redirect:
        line = ["sh", "-c", f'exec "$@" {environment.redirect}', "sh", *line]
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    package = str(Path(__file__).parent.parent.parent)
    return subprocess.run(
        line,
        env={**bare, "NSBROKER_ADDRESS": address, "PYTHONPATH": package, **environment.variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        preexec_fn=environment.prepare,
        cwd=folder,
        timeout=120 * SLOWNESS,
        check=False,
    )


def run(command: str, arguments: Sequence[str], environment: Environment, address: str, folder: Path) -> Done:
    done = start(["-m", "nsbroker", command, *arguments], environment, address, folder)
    return Done(done.returncode, done.stdout, done.stderr)


def run_all(environment: Environment, address: str, folder: Path) -> Iterator[tuple[str, Done]]:
    """Run each command of the table, and yield its name and result."""
    lines = []
    for command, arguments in COMMANDS.items():
        cut = arguments.index("--") if "--" in arguments else len(arguments)
        lines.append([command, *arguments[:cut], *map(os.fsdecode, environment.arguments), *arguments[cut:]])
    # /run may be full, so use another folder.
    with TemporaryDirectory(dir="/var/tmp") as results:
        (Path(results) / "lines").write_text(json.dumps(lines))
        program = [EVERY_COMMAND, f"{results}/lines", results, *map(str, environment.readable)]
        with environment.around():
            done = start(program, environment, address, folder)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
        for number, command in enumerate(COMMANDS):
            output, errors = (
                (Path(results) / f"{number}.{fd}").read_bytes() if fd in environment.readable else b"" for fd in (1, 2)
            )
            yield command, Done(int((Path(results) / f"{number}").read_text()), output, errors)


def test_every_command_is_in_the_table() -> None:
    assert set(COMMANDS) == set(main.COMMANDS)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_no_command_ends_with_a_traceback(daemon: Daemon, name: str, tmp_path: Path) -> None:
    environment = ENVIRONMENTS[name]
    for command, done in run_all(environment, daemon.address, tmp_path):
        errors = done.errors.decode()
        assert done.code in (0, 1, 2), (command, done)
        assert "Traceback" not in errors, (command, done)
        assert "a fault in nsbroker" not in errors, (command, done)
        assert "Exception ignored" not in errors, (command, done)
        assert "\x1b" not in errors, (command, done)
        # These commands print more lines: engines that could not be asked, warnings, namespaces that are in no tree.
        if done.code and command not in ("containers", "check-config", "tree", "doctor"):
            lines = len(errors.splitlines())
            # Nothing is printed when the reader has closed the pipe.
            assert lines == (0 if "2>" in environment.redirect else 1) or (lines == 0 and name == "broken pipe"), (
                command,
                done,
            )
        if environment.breaks and "--help" not in COMMANDS[command] and command not in ("open", "exec", "via"):
            assert done.code, (command, done)


@pytest.mark.parametrize("name", ["PYTHONOPTIMIZE=2", "ascii", "closed output", "full output"])
def test_the_help_is_printed(name: str, tmp_path: Path) -> None:
    environment = ENVIRONMENTS[name]
    for command in ("show", "serve", "watch", "install-units"):
        done = run(command, ["--help"], environment, "", tmp_path)
        assert b"Traceback" not in done.errors
        assert done.code == (1 if environment.breaks else 0), done
        assert len(done.errors.splitlines()) == (1 if environment.breaks else 0)
    if not environment.breaks:
        assert b"Show the namespaces of a target." in run("show", ["--help"], environment, "", tmp_path).output
        assert b"remove what install-units installed" in run("remove-units", ["--help"], environment, "", tmp_path).output


def nonsense(entry: bytes) -> Callable[[Any], None]:
    """Make a broker that replies to every call with the same parameters."""

    def behave(sock: Any) -> None:
        while read_call(sock):
            sock.sendall(b'{"parameters":%b}\0' % entry)

    return behave


CONTROL = r"\u001b[31m\u009b2J\u202e\u2066\u2028\u007f\u0007\r\n→容"
HUGE = b"9" * 30
REPLIES = {
    "nothing": b"{}",
    "wrong types": b'{"peer":7,"namespace":[],"container":"x","held":1,"devices":{},"verdicts":"x","target":1,"allowed":2}',
    "a container without a name": (
        b'{"container":{"engine":"x","id":"%b","names":[],"state":"","pid":-1,"types":[],"labels":{}}}' % CONTROL.encode()
    ),
    "numbers that are none": (
        b'{"peer":{"uid":%b,"gid":-7,"groups":[%b,-1,0],"pid":-1,"anonymous":false,"unit":"%b"},'
        b'"version":"%b","features":{"%b":true},"rules":-1,"loaded":1e300,"connections":0,"calls":%b,"fileDescriptors":0,"held":0,'
        b'"heldDurable":true}' % (HUGE, HUGE, *[CONTROL.encode()] * 3, HUGE)
    ),
    "a time that is none": (
        b'{"version":"1","features":{},"rules":1,"loaded":-1e15,"connections":0,"calls":0,"fileDescriptors":0,"held":0,"heldDurable":false}'
    ),
    "namespaces that are none": (
        b'{"namespace":{"type":"net","inode":%b,"device":-1,"processes":-5,"ownerUid":%b,"parent":%b,'
        b'"process":{"pid":-1,"command":"%b","uid":%b},"containers":["%b","%b"],"units":["%b"],'
        b'"references":[{"kind":"thread","path":"%b"},{"kind":"mount"},{"kind":"namespace"}]}}'
        % (HUGE, HUGE, HUGE, CONTROL.encode(), HUGE, CONTROL.encode(), b"7" * 6000, CONTROL.encode(), CONTROL.encode())
    ),
    "a namespace kept by what cannot keep it": (
        b'{"namespace":{"type":"net","inode":5,"device":4,"processes":0,"references":[{"kind":"thread","path":"%b"}]}}'
        % CONTROL.encode()
    ),
    "a namespace kept by nothing": (
        b'{"namespace":{"type":"net","inode":5,"device":4,"processes":0,"references":[{"kind":"mount"},{"kind":"namespace"}]}}'
    ),
    "control characters": (
        b'{"target":"x","allowed":true,"verdicts":[{"type":"net","allowed":true,"rule":"%b"}],'
        b'"devices":[{"name":"%b","major":1,"minor":1,"allowed":true,"rule":"%b"}],"unavailable":{"engine":"%b","reason":"%b"}}'
        % ((CONTROL.encode(),) * 5)
    ),
    "half a surrogate pair": rb'{"peer":{"uid":0,"gid":0,"groups":[],"pid":1,"anonymous":false,"unit":"\ud800"}}',
}  # fmt: skip
COMMANDS_THAT_ASK = [
    *([name, *COMMANDS[name]] for name in (*WITH_JSON, "watch") if name != "check-config"),
    ["map", "x.svg"], ["map", "x.html"], ["create", "x"], ["hold", "self", "x"], ["release", "x"], ["watch"],
    ["open", "self", "--", "true"], ["exec", "self", "--", "true"], ["connect", "self", "127.0.0.1", "1"],
    ["forward", "self", "0:1"], ["cat", "self", "net/dev"], ["capture", "self"], ["extcap", "--extcap-interfaces"],
    ["status", "--prometheus"],
    *([name, *COMMANDS[name], "--json"] for name in WITH_JSON if name != "check-config"), ["watch", "--json"],
]  # fmt: skip


@pytest.mark.parametrize("name", REPLIES)
def test_a_nonsensical_reply_is_no_traceback(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.chdir(tmp_path)
    with impostor(nonsense(REPLIES[name])) as address:
        monkeypatch.setenv("NSBROKER_ADDRESS", address)
        for command in COMMANDS_THAT_ASK:
            code = main.main(command)
            output, errors = (text.decode() for text in capsysbinary.readouterr())
            assert code in (0, 1, 2), command
            assert "a fault in nsbroker" not in errors, (command, errors)
            assert all(line.isprintable() for line in errors.split("\n")), (command, errors)
            if "--json" not in command:
                assert all(line.isprintable() for line in output.split("\n")), (command, output)


@pytest.fixture
def arrow() -> Iterator[subprocess.Popen[bytes]]:
    """A process whose name cannot be written in every encoding."""
    code = "import sys, time; print(end='!', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, "→ 容 " + NASTY], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.read(1)
        yield process
        process.kill()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8", "ascii:strict"])
def test_json_into_a_pipe_is_utf_8_whatever_the_encoding(
    daemon: Daemon, arrow: subprocess.Popen[bytes], encoding: str, tmp_path: Path
) -> None:
    environment = Environment(variables={"PYTHONIOENCODING": encoding})
    for command in (["ls", f"pid:{arrow.pid}"], ["tree"]):
        done = run(command[0], [*command[1:], "--json"], environment, daemon.address, tmp_path)
        assert done.code == 0, done
        json.loads(done.output.decode())
    assert run("ls", [], environment, daemon.address, tmp_path).code == 0
