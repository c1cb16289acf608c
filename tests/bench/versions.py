"""The versions of nsbroker that are measured: that of this checkout, and an older one.  Both run as commands only."""

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.bench.rivals import Server, running
from tests.bench.table import BEFORE, NOW, LeftOut
from tests.bench.wire import open_call

CHECKOUT = Path(__file__).parent.parent.parent
_CLIENT = (sys.executable, str(CHECKOUT / "tests/bench/client.py"))
_POLICY = """\
[[allow]]
name = "all"
who = "everyone"
targets = ["*"]
namespaces = ["*"]
sockets = ["*"]
"""
_RULE = '[[allow]]\nname = "r{0}"\nwho = "everyone"\ntargets = ["name:net-{0}-*", "pid:{1}"]\nnamespaces = ["net"]\n'
_LIMITS = "[limits]\nconnections = 2000\n"


class Version(NamedTuple):
    """A version of nsbroker, which lies in `folder`."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of `nsbroker ARGUMENTS`."""
        return [sys.executable, "-m", "nsbroker", *arguments]

    def environment(self, **more: str) -> Mapping[str, str]:
        """Return an environment in which the interpreter finds this version before all others.

        PYTHONPATH comes before what is installed.  Only the current folder or that of the script would come first:
        PYTHONSAFEPATH takes it away (Python 3.11).
        """
        return {**os.environ, "PYTHONPATH": str(self.folder), "PYTHONSAFEPATH": "1", **more}

    def prove(self) -> str:
        """Return where the interpreter really finds the package.  Raises LeftOut if that is not in `folder`."""
        code = "import nsbroker, nsbroker.cli.main as main; print(main.__file__)"
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environment(), cwd="/", capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LeftOut(f"nsbroker in {self.folder} cannot be imported: {done.stderr.strip().splitlines()[-1]}")
        found = Path(done.stdout.strip())
        if not found.is_relative_to(self.folder):
            raise LeftOut(f"Python imports {found}, which is not in {self.folder}")
        subprocess.run([sys.executable, "-m", "compileall", "-q", self.folder / "nsbroker"], check=False)
        return str(found.parent.parent)


def find(commit: str) -> dict[str, Version]:
    """Return this checkout as `NOW`, and `commit`, if it is given, as `BEFORE`.

    Raises SystemExit if there is no such commit, or if another package than the one in the folder would be imported.
    """
    versions = {NOW: Version(CHECKOUT)}
    try:
        if commit:
            versions[BEFORE] = Version(_check_out(commit))
        for name, version in versions.items():
            print(f"{name}: {version.prove()}", file=sys.stderr)
    except LeftOut as error:
        raise SystemExit(f"make bench: {error}") from error
    return versions


def _check_out(commit: str) -> Path:
    """Unpack the commit into build/, unless it is there already, and return the folder."""
    # The checkout may belong to another user than root, who runs this.
    git = ["git", "-c", "safe.directory=*", "-C", str(CHECKOUT)]
    try:
        named = subprocess.run([*git, "rev-parse", "--verify", f"{commit}^{{commit}}"], capture_output=True, text=True, check=False)
        if named.returncode:
            raise LeftOut(f"BEFORE={commit} is not a commit here: {named.stderr.strip()}")
        folder = CHECKOUT / "build/before" / named.stdout.strip()[:12]
        if not folder.exists():
            archive = subprocess.run([*git, "archive", named.stdout.strip()], capture_output=True, check=True).stdout
            folder.parent.mkdir(parents=True, exist_ok=True)
            # If this is interrupted, no half of a commit may be left under its name.
            with tempfile.TemporaryDirectory(dir=folder.parent) as half, tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(f"{half}/tree")
                os.rename(f"{half}/tree", folder)
    except FileNotFoundError as error:
        raise LeftOut("git is missing, and BEFORE needs it") from error
    return folder


class Broker(NamedTuple):
    """A running broker.  `server.call` opens the network namespace of the process that was given to `serve`."""

    version: Version
    server: Server

    @property
    def address(self) -> str:
        """The address for clients."""
        return f"unix:{self.server.path}"

    @property
    def pid(self) -> int:
        """The pid of the daemon."""
        return self.server.pid

    def memory(self) -> int:
        """Return the resident memory in bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")

    def client(self, target: int, what: str, program: Sequence[str] = _CLIENT) -> contextlib.AbstractContextManager["Client"]:
        """Start tests/bench/client.py with this version's own client library.  `program` is its command line."""
        return _client(self, [*program, what, self.address, str(target)])


@contextlib.contextmanager
def serve(version: Version, target: int = 0, rules: int = 1, more: str = "") -> Iterator[Broker]:
    """Run a broker with a policy of `rules` rules, of which only the last one matches, and with records in a file.

    Its `call` opens the network namespace of the process `target`.  `more` are further lines of its configuration.
    """
    with tempfile.TemporaryDirectory() as name, open(f"{name}/log", "w+b") as log:
        folder = Path(name)
        path, config = folder / "socket", folder / "config"
        config.mkdir()
        others = "".join(_RULE.format(number, 3_000_000 + number) for number in range(rules - 1))
        (config / "nsbroker.toml").write_text(others + _POLICY + _LIMITS + more)
        command = version.command("serve", "--address", f"unix:{path}", "--config", str(config))
        with running(command, path, log, version.environment(), Path("/")) as pid:
            yield Broker(version, Server(pid, path, open_call(target)))


@contextlib.contextmanager
def serve_all(versions: Mapping[str, Version], target: int = 0, rules: int = 1, more: str = "") -> Iterator[dict[str, Broker]]:
    """Run a broker of each version at the same time, otherwise as `serve`."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(serve(version, target, rules, more)) for name, version in versions.items()}


class Client:
    """A process that uses a client library of a version, and does as much as it is told to."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Its pid."""
        return self._process.pid

    def run(self, count: int) -> list[float]:
        """Let it make `count` calls.  Return the seconds of one, or of each.  Raises LeftOut if it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(count, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise LeftOut("this version's client cannot do that")
        times: list[float] = json.loads(line)
        return times


@contextlib.contextmanager
def _client(broker: Broker, command: Sequence[str]) -> Iterator[Client]:
    process = subprocess.Popen(
        command,
        env=broker.version.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            yield Client(process)
        finally:
            process.terminate()
