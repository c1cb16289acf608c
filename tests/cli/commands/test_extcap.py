"""`nsbroker extcap`, asked as Wireshark asks, and by a real tshark."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.model.target import ENGINES
from nsbroker.version import VERSION
from tests.capture import generator, reader
from tests.capture.wire import INSIDE, needs_libpcap
from tests.cli.commands.test_capture import numbers, send
from tests.cli.conftest import one_line
from tests.test_examples import add_container
from tests.via.conftest import need
from tests.world import ALICE, BOB, PATIENCE, Daemon, Sleeper, eventually, run_command, start_command

pytestmark = pytest.mark.root

WRONG: list[tuple[list[str], int, str]] = [
    ([], 2, "run `nsbroker install-extcap`"),
    (["--capture"], 2, "run `nsbroker install-extcap`"),
    (["--extcap-interface", "name:blue"], 2, "write one of --extcap-dlts"),
    (["--capture", "--extcap-interface", "name:blue"], 2, "--capture needs --fifo"),
    (["--capture", "--extcap-interface", "bleu", "--fifo", "/nowhere"], 2, "bleu"),
    (["--capture", "--extcap-interface", "name:blue", "--fifo", "/run/nowhere/x"], 1, "cannot write to /run/nowhere/x"),
    (["--capture", "--extcap-interface", "name:green", "--fifo", "/nowhere"], 1, "permission denied"),
]
"""Command lines, the exit code, and what the error says."""
FIRST_LINE = f"extcap {{version={VERSION}}}{{display=nsbroker}}"


@pytest.fixture
def web(daemon: Daemon, feed: None, sleeper: Sleeper) -> Iterator[None]:
    """The containers web and db, and the network blue.  ALICE may capture from web and blue."""
    engines = "".join(f"{name} = []\n" for name in ENGINES if name != "crun")
    (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ncrun = ["{daemon.folder}/crun"]\n{engines}')
    with Sleeper() as other:
        add_container(daemon, "web", sleeper.pid)
        add_container(daemon, "db", other.pid)
        daemon.allow("web", who=[f"user:{ALICE}"], targets=["crun:web"], namespaces=["net"], sockets=["packet:raw"])
        daemon.allow("db", who=[f"user:{ALICE}"], targets=["crun:db"], namespaces=["net"], sockets=["inet:stream"])
        yield


def ask(daemon: Daemon, *arguments: str, uid: int = ALICE) -> list[str]:
    """Return the lines that it prints.  Wireshark takes whatever is on standard error for a failure."""
    done = run_command("extcap", *arguments, uid=uid, address=daemon.address)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def sentence(line: str) -> tuple[str, dict[str, str]]:
    """Take a line apart as Wireshark does (extcap_parser.c)."""
    kind, _, rest = line.partition(" ")
    return kind, dict(re.findall(r"\{([a-zA-Z_-]*?)=(.*?)\}(?=\{|$|\s)", rest))


def test_what_may_be_captured_is_listed(daemon: Daemon, web: None) -> None:
    expected = [
        ("extcap", {"version": VERSION, "display": "nsbroker"}),
        ("interface", {"value": "crun:web", "display": "crun:web (nsbroker)"}),
        ("interface", {"value": "name:blue", "display": "name:blue (nsbroker)"}),
    ]
    # What is not found in time is not listed.
    eventually(lambda: [*map(sentence, ask(daemon, "--extcap-interfaces", "--extcap-version=4.0"))] == expected, "all are listed")
    assert ask(daemon, "--extcap-interfaces", uid=BOB) == [FIRST_LINE]


def test_without_a_broker_it_is_silent_and_valid(daemon: Daemon) -> None:
    done = run_command("extcap", "--extcap-interfaces", address="unix:/run/nowhere")
    assert (done.returncode, done.stdout, done.stderr) == (0, FIRST_LINE + "\n", "")


def test_a_broker_that_does_not_answer_is_not_waited_for(daemon: Daemon) -> None:
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        assert ask(daemon, "--extcap-interfaces", "--timeout", "0.2") == [FIRST_LINE]
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


def test_the_link_types_are_listed(daemon: Daemon) -> None:
    found = [sentence(line) for line in ask(daemon, "--extcap-dlts", "--extcap-interface", "crun:web")]
    assert found == [
        ("dlt", {"number": "1", "name": "EN10MB", "display": "Ethernet"}),
        ("dlt", {"number": "101", "name": "RAW", "display": "Raw IP"}),
    ]


def test_the_interface_is_an_option_whose_values_are_loaded_when_they_are_wanted(daemon: Daemon, feed: None) -> None:
    option, default = (sentence(line) for line in ask(daemon, "--extcap-config", "--extcap-interface", "name:blue"))
    assert (option[0], option[1]["call"], option[1]["type"], option[1]["reload"]) == ("arg", "--interface", "selector", "true")
    assert default == ("value", {"arg": "0", "value": "any", "display": "all interfaces", "default": "true"})
    # That asked for no socket.
    assert not [record for record in daemon.records() if record["method"] == "OpenSocket"]
    lines = ask(daemon, "--extcap-config", "--extcap-interface", "name:blue", "--extcap-reload-option", "interface")
    values = {value["value"]: value["default"] for kind, value in map(sentence, lines) if kind == "value"}
    assert {"any": "true", "lo": "false", INSIDE: "false"}.items() <= values.items()
    # Whoever may not capture sees no interfaces.
    assert len(ask(daemon, "--extcap-config", "--extcap-interface=name:blue", "--extcap-reload-option=interface", uid=BOB)) == 1


@needs_libpcap
def test_a_filter_is_checked(daemon: Daemon) -> None:
    for expression, right in (("tcp port 80", True), ("tcp prot 80", False), ("vlan", False)):
        assert right == (ask(daemon, "--extcap-capture-filter", expression, "--extcap-interface", "name:blue") == [])


@needs_libpcap
@pytest.mark.parametrize("reader_leaves", [False, True])
def test_a_capture_goes_into_the_fifo_until_wireshark_stops_it(
    daemon: Daemon, feed: None, folder: Path, reader_leaves: bool
) -> None:
    fifo = folder / "fifo"
    os.mkfifo(fifo)
    fifo.chmod(0o666)
    arguments = ["--extcap-interface", "name:blue", "--extcap-capture-filter", "ether proto 0x88b5", "--interface", INSIDE]
    command = ["extcap", "--capture", *arguments, "--fifo", str(fifo)]
    with start_command(*command, uid=ALICE, address=daemon.address) as process, fifo.open("rb", buffering=0) as end:
        text = end.read(65536)
        send(bytes(64), *map(generator.frame, range(5)))
        while numbers(text) != [0, 1, 2, 3, 4]:
            text += end.read(65536)
        if reader_leaves:
            end.close()
        else:
            process.terminate()
        output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output, errors) == (0, b"", b"")
    [interface] = reader.read(text).interfaces
    assert (interface.name, interface.description, interface.filter) == (INSIDE, "name:blue", "ether proto 0x88b5")


def test_a_failure_is_one_line_for_wireshark_to_show(daemon: Daemon, feed: None) -> None:
    for arguments, code, words in WRONG:
        assert words in one_line(run_command("extcap", *arguments, uid=ALICE, address=daemon.address), code)


@pytest.fixture
def tshark(daemon: Daemon, web: None, folder: Path) -> list[str]:
    """A command line that runs tshark as ALICE, for whom `nsbroker install-extcap` has been run."""
    program = need("tshark")
    environment = [f"HOME={folder}", f"NSBROKER_ADDRESS={daemon.address}"]
    as_alice = ["setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups", "env", *environment]
    subprocess.run([*as_alice, sys.executable, "-m", "nsbroker", "install-extcap"], check=True, capture_output=True)
    return [*as_alice, program]


def test_tshark_lists_and_captures(tshark: list[str], folder: Path) -> None:
    def is_listed() -> bool:
        listed = subprocess.run([*tshark, "-D"], capture_output=True, text=True, check=True).stdout
        assert "crun:db" not in listed
        return "name:blue (nsbroker)" in listed and "crun:web (nsbroker)" in listed

    eventually(is_listed, "both are listed")
    path = folder / "file.pcapng"
    command = [*tshark, "-i", "name:blue", "-f", "ether proto 0x88b5", "-c", "3", "-w", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # tshark and what it starts take a moment, and frames that are sent before are lost.
        def ends() -> bool:
            send(generator.frame(7))
            return process.poll() is not None

        eventually(ends, "tshark has its packets")
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    fields = ["-T", "fields", "-e", "frame.interface_name", "-e", "eth.type"]
    shown = subprocess.run([*tshark, "-r", str(path), *fields], capture_output=True, text=True, check=True).stdout
    assert [line.split("\t") for line in shown.splitlines()] == [[INSIDE, "0x88b5"]] * 3
