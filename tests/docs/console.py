"""Running the commands and programs of a document as its readers would, against a real broker."""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

import nsbroker
from tests.docs.blocks import Block, Command, commands
from tests.world import ALICE, Daemon, as_user, eventually, run_command, start_command

LEFT_OUT = {
    "apt install": "it changes the machine",
    "-m venv": "it changes the machine",
    "pip install": "it changes the machine",
    "ln -s": "it changes the machine",
    "rm -r": "it changes the machine",
    "cp examples/": "it changes the machine",
    "make deb": "`make test-deb` runs it on a clean Debian",
    "install-units": "tests/systemd/test_installing.py runs it in a booted systemd",
    "remove-units": "tests/systemd/test_installing.py runs it in a booted systemd",
    "systemctl": "tests/systemd/test_service.py runs it in a booted systemd",
    "journalctl": "it needs a journal: tests/systemd/test_service.py reads records there",
    "nsbroker serve": "every test starts a broker",
    "nsbroker watch": "it runs until it is interrupted: tests/cli/commands/test_watch.py",
    "nsbroker grant": "it needs the broker of the system: tests/systemd/test_grants.py",
    "nsbroker revoke": "it needs the broker of the system: tests/systemd/test_grants.py",
    "nsbroker add-interface": "not every kernel has veth and tap: tests/cli/commands/test_add_interface.py",
    "tcpdump": "it waits for packets: examples/demo.sh, which tests/test_examples.py runs",
    "nsbroker capture": "it waits for packets: tests/cli/commands/test_capture.py",
    "-extcap": "it changes a home folder: tests/cli/commands/test_install_extcap.py",
    "tshark": "it waits for packets: tests/cli/commands/test_extcap.py",
    "ssh -o": "it needs a server of ssh: tests/cli/commands/test_connect.py runs the command",
    "curl -sS http://127.0.0.1:9101": "it needs the unit that the page shows: tests/cli/commands/test_forward.py forwards ports",
    "fetch.py": "the block of Python that it names runs here",
    "kill %1": "only an interactive shell has jobs: the test ends the server itself",
    "docker build": "it needs docker: `make test-image` builds the image",
    "docker push": "it needs a registry",
    "kubectl": "it needs a cluster: `make test-image` validates the manifests",
    "varlinkctl": "it needs systemd 255: tests/systemd/test_service.py calls it there",
}
"""What stands in command lines that are not run here, and why."""
NOT_EVERYWHERE = ("socat",)
"""Programs of command lines that run only where the program is installed."""
# curl is not installed everywhere.
_FETCH = [sys.executable, "-c", "import sys, urllib.request as http; print(http.urlopen(sys.argv[-1]).read().decode())"]
_SHELL = set("|<>&;")


class Console:
    """Runs the blocks of a page, in their order.

    `replacements` are texts of the documents and what stands for them here, such as the number of a process.  `folder` is the
    working directory of all commands; every user can write to it.
    """

    def __init__(self, daemon: Daemon, folder: Path, replacements: Mapping[str, str]) -> None:
        self._daemon = daemon
        self._folder = folder
        self._replacements = {
            "docker:": "crun:",
            "/etc/nsbroker/": f"{daemon.config}/",
            "/run/nsbroker/io.nsbroker.Broker": str(daemon.socket),
            "time.monotonic() + 10": "time.monotonic() + 0.1",
            **replacements,
        }
        program = folder / "bin/nsbroker"
        program.parent.mkdir()
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m nsbroker "$@"\n')
        program.chmod(0o755)
        program.with_name("python3").symlink_to(sys.executable)
        self._environment = {
            **os.environ,
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "NSBROKER_ADDRESS": daemon.address,
        }
        self._background: list[subprocess.Popen[bytes]] = []
        self._before = ""

    def __enter__(self) -> Self:
        self._before = os.getcwd()
        os.chdir(self._folder)
        return self

    def __exit__(self, *_: object) -> None:
        os.chdir(self._before)
        for process in self._background:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def replace(self, text: str) -> str:
        """Return `text` of a document as it is meant here."""
        for old, new in self._replacements.items():
            text = text.replace(old, new)
        return text

    def run(self, block: Block) -> None:
        """Run the commands of a console block, or a block of Python."""
        if block.language == "python":
            self._run_python(block)
        else:
            for command in commands(block):
                self._run(command)

    def install(self, block: Block) -> None:
        """Write the file that a block of TOML shows, whose first line is its path."""
        Path(self.replace(block.text.splitlines()[0].removeprefix("# "))).write_text(block.text)

    def _run_python(self, block: Block) -> None:
        """Run a block as an ordinary user, or as root where it says so."""
        code = compile(self.replace(block.text), block.name, "exec")

        def run() -> None:
            os.environ["NSBROKER_ADDRESS"] = self._daemon.address
            exec(code, {"nsbroker": nsbroker, "__name__": "__main__"})

        as_user(0 if block.text.startswith("# as root") else ALICE, run)

    def _run(self, command: Command) -> None:
        line = self.replace(command.line)
        if line.startswith("systemctl reload nsbroker"):
            self._daemon.reload()
        if any(words in command.line for words in LEFT_OUT):
            return
        if any(program in line and shutil.which(program) is None for program in NOT_EVERYWHERE):
            return
        uid = 0 if command.as_root else ALICE
        if line.endswith(" &"):
            self._start(line)
            return
        words = split(line)
        if words[:2] in (["nsbroker", "forward"], ["nsbroker", "exporter"]):
            first = self._run_until_it_prints(words[1:], uid)
            assert not command.output or self.replace(command.output[0]) == first
            return
        if words[0] != "nsbroker" or any(set(word) <= _SHELL for word in words):
            done = self._run_in_shell(line, uid)
        else:
            done = run_command(*_with_what_is_installed(words)[1:], uid=uid, address=self._daemon.address)
        said = done.stdout + done.stderr
        expects_refusal = any("denied" in shown for shown in command.output)
        assert (done.returncode != 0) == expects_refusal, f"{command.line}: exit code {done.returncode}: {said}"
        for shown in command.output:
            beginning, dots, _ = self.replace(shown).partition("...")
            found = beginning in said if dots else beginning.split() in map(str.split, said.splitlines())
            assert found, f"{command.line}: {shown!r} is not in: {said}"

    def _run_in_shell(self, line: str, uid: int) -> "subprocess.CompletedProcess[str]":
        drop = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"] if uid else []
        return subprocess.run(
            [*drop, "sh", "-c", line],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=50,
        )

    def _start(self, line: str) -> None:
        """Start a server in the background, and wait until it prints that it serves."""
        log = self._folder / "server.log"
        with log.open("wb") as file:
            self._background.append(
                subprocess.Popen(
                    ["sh", "-c", line.removesuffix(" &")],
                    env={**self._environment, "PYTHONUNBUFFERED": "1"},
                    stdout=file,
                    stderr=file,
                    start_new_session=True,
                )
            )
        eventually(lambda: b"Serving" in log.read_bytes(), f"{line} serves")

    def _run_until_it_prints(self, arguments: Sequence[str], uid: int) -> str:
        """Run a command that ends only when it is interrupted, until it has printed a line, and return the line."""
        with start_command(*arguments, uid=uid, address=self._daemon.address) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            first = process.stdout.readline().decode().rstrip("\n")
            process.send_signal(signal.SIGINT)
            errors = process.stderr.read().decode()
            assert process.wait(30) == 0, errors
        return first


def split(line: str) -> list[str]:
    """Split a command line into words, without its comment.  What only a shell understands is a word of its own."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|<>&;")
    lexer.whitespace_split = True
    return list(lexer)


@contextlib.contextmanager
def user_alice() -> Iterator[None]:
    """Make the user alice, in the /etc of the private host."""
    place = Path("/etc/passwd")
    before = place.read_text()
    place.write_text(f"{before}alice:x:{ALICE}:{ALICE}::/nonexistent:/bin/sh\n")
    try:
        yield
    finally:
        place.write_text(before)


def _with_what_is_installed(words: Sequence[str]) -> list[str]:
    """Return a command line of `nsbroker` whose program is here: curl fetches a page, all others do nothing if they are missing."""
    if "--" not in words:
        return list(words)
    cut = words.index("--") + 1
    program, *others = words[cut:]
    if shutil.which(program) is not None:
        return list(words)
    return [*words[:cut], *([*_FETCH, *others] if program == "curl" else ["true"])]
