"""The commands and programs of the documents run: against a real broker, as the users for whom they are."""

import configparser
import contextlib
import http.server
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.generate import commands as reference
from nsbroker.daemon import configuration
from nsbroker.daemon.policy.rules import Policy
from nsbroker.model.target import ENGINES
from nsbroker.namespace import Namespace
from tests.docs.blocks import CHECKOUT, PAGES, Block, blocks, blocks_of, commands
from tests.docs.console import LEFT_OUT, Console, split, user_alice
from tests.test_examples import add_container, serving
from tests.world import ALICE, LINUX, Daemon, Sleeper, eventually

TUTORIAL = CHECKOUT / "docs/tutorial.md"
WITH_PROGRAMS = [page for page in PAGES if page != TUTORIAL and any(b.language in ("console", "python") for b in blocks_of(page))]
LANGUAGES = {
    "console": "run here",
    "python": "run here",
    "toml": "read here as a configuration",
    "ini": "its commands are parsed here",
    "yaml": "the configuration of another program, which is not installed for tests",
    "text": "synopses, pictures and output",
}
"""The languages of blocks, and what is done with each."""
PERMISSIONS = ("namespaces", "sockets", "marks", "devices", "files", "interfaces", "create", "hold")
via_works = pytest.mark.skipif(LINUX < (5, 14), reason="`nsbroker via` needs Linux 5.14")


class Page(http.server.BaseHTTPRequestHandler):
    """Answers every request with a page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page from inside\n")

    def log_message(self, format: str, *arguments: object) -> None:
        """Print no log, which would disturb the output of the tests."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user can use, unlike those of pytest."""
    with tempfile.TemporaryDirectory(dir="/run") as place:
        Path(place).chmod(0o777)
        yield Path(place)


def networks_of_threads() -> set[str]:
    """Return the networks in which the threads of this process are."""
    found = set()
    for tid in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/task/{tid}/ns/net"))
    return found


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, dict[str, str]]]:
    """A broker that knows the containers web and db, lets alice have everything of them, and a process of alice's.

    The containers are processes in namespaces of their own, and the state files that crun would write; tests/engines has real ones.
    """
    engines = "".join(f"{name} = []\n" for name in ENGINES if name != "crun")
    with (
        user_alice(),
        Daemon(tmp_path_factory.mktemp("scene")) as daemon,
        Sleeper() as web,
        Sleeper() as db,
        Sleeper(uid=ALICE) as own,
    ):
        (daemon.config / "nsbroker.d/engines.toml").write_text(f'[engines]\ncrun = ["{daemon.folder}/crun"]\n{engines}')
        add_container(daemon, "web", web.pid)
        add_container(daemon, "db", db.pid)
        everything = {key: ["*"] for key in PERMISSIONS}
        daemon.allow("scene", who=["user:alice"], targets=["crun:*", "name:*", "own"], **everything)
        with Namespace.from_pid(web.pid, "net") as network:
            network.call(subprocess.run, ["ip", "link", "set", "lo", "up"])
            with serving(network, 8080, Page):
                # The kernel still shows threads that have ended for a moment, and would show them to the first test.
                eventually(lambda: networks_of_threads() == {os.readlink("/proc/self/ns/net")}, "no thread is left inside")
                yield daemon, {"4711": str(own.pid)}


@pytest.mark.root
@via_works
@pytest.mark.parametrize("page", WITH_PROGRAMS, ids=lambda page: page.stem)
def test_the_commands_and_programs_of_a_page_run(scene: tuple[Daemon, dict[str, str]], folder: Path, page: Path) -> None:
    daemon, replacements = scene
    with Console(daemon, folder, replacements) as console:
        for block in blocks_of(page):
            if block.language in ("console", "python"):
                console.run(block)


@pytest.mark.root
@via_works
def test_the_first_steps_lead_where_they_say(daemon: Daemon, folder: Path) -> None:
    with user_alice(), Console(daemon, folder, {"1000 (alice)": f"{ALICE} (alice)"}) as console:
        for block in blocks_of(TUTORIAL):
            if block.language == "toml":
                console.install(block)
            elif block.language in ("console", "python"):
                console.run(block)
    wanted = [(record["target"], record["wanted"], record["verdict"]) for record in daemon.records() if record.get("wanted")]
    assert ("name:lab", "inet:stream", "denied") in wanted
    assert ("name:lab", "inet:stream", "allowed") in wanted
    assert not Path("/run/netns/lab").exists()


@pytest.mark.once
@pytest.mark.parametrize("block", blocks("toml"), ids=lambda block: block.name)
def test_a_policy_is_valid(tmp_path: Path, block: Block) -> None:
    (tmp_path / "policy.toml").write_text(block.text)
    (tmp_path / "policy.toml").chmod(0o644)
    assert Policy(configuration.load(tmp_path / "policy.toml")).rules


@pytest.mark.once
@pytest.mark.parametrize("block", blocks("ini"), ids=lambda block: block.name)
def test_a_unit_runs_commands_that_exist(block: Block) -> None:
    unit = configparser.ConfigParser(interpolation=None)
    unit.read_string(block.text)
    command = unit.get("Service", "ExecStart", fallback="")
    if command:
        program, name, *arguments = split(command)
        assert os.path.basename(program) == "nsbroker"
        reference.parser(name).parse_args(arguments)


@pytest.mark.once
def test_every_command_line_of_the_command_is_written_as_its_parser_wants_it() -> None:
    lines = [command.line for block in blocks("console") for command in commands(block)]
    parsed = 0
    for line in lines:
        words = split(line)
        if words[0] == "nsbroker" and "|" not in words:
            name, *arguments = words[1:]
            end = next((number for number, word in enumerate(arguments) if word in ("--", "<")), len(arguments))
            reference.parser(name).parse_args(arguments[:end])
            parsed += 1
    assert parsed > 40


@pytest.mark.once
def test_every_block_has_a_language_for_which_something_is_done() -> None:
    assert {block.language for block in blocks()} == LANGUAGES.keys()


@pytest.mark.once
def test_every_reason_for_leaving_a_command_out_is_one_for_a_command_that_is_there() -> None:
    lines = [command.line for block in blocks("console") for command in commands(block)]
    assert [words for words in LEFT_OUT if not any(words in line for line in lines)] == []
