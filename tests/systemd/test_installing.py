"""install-units and remove-units: the files that they write, programs that they refuse, and a service that cannot start."""

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.cli.service_program import format_exec_start
from nsbroker.client.blocking import connect
from nsbroker.errors import NsbrokerError
from tests.systemd.unit import ADDRESS, Unit
from tests.world import ALICE, as_user, eventually

pytestmark = pytest.mark.root
SERVICE = Path("/usr/local/lib/systemd/system/nsbroker.service")
SCRIPT = Path(sys.executable).with_name("nsbroker")


def run(*command: str, code: int = 0, cwd: str = "/") -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd)
    assert done.returncode == code, f"{command}: {done.stdout}{done.stderr}"
    return (done.stdout + done.stderr).strip()


def exec_start() -> str:
    return next(line for line in SERVICE.read_text().splitlines() if line.startswith("ExecStart="))


def installed_in(folder: Path) -> Path:
    """Copy this installation's command to `folder`, and return the copy.  It uses the same package."""
    folder.mkdir(parents=True)
    return Path(shutil.copy(SCRIPT, folder / "nsbroker"))


@pytest.fixture
def opt() -> Iterator[Path]:
    place = Path("/opt/test-installing")
    place.mkdir()
    yield place
    run(str(SCRIPT), "remove-units")
    shutil.rmtree(place)


@pytest.fixture
def hidden() -> Iterator[Path]:
    """A directory where everyone may write, and which the service cannot see."""
    place = Path("/tmp/test-installing")
    place.mkdir()
    yield place
    shutil.rmtree(place)


def broker_answers() -> bool:
    run("systemctl", "start", "nsbroker.socket")
    try:
        with connect(ADDRESS, timeout=10) as broker:
            is_root = broker.who_am_i().uid == 0
        run("systemctl", "reload", "nsbroker.service")
        return is_root
    finally:
        run("systemctl", "stop", "nsbroker.socket", "nsbroker.service")


def test_units_installed_by_the_module_start_the_module(opt: Path) -> None:
    run(sys.executable, "-m", "nsbroker", "install-units")
    # The checkout may have a path with spaces.
    program = format_exec_start((sys.executable, "-m", "nsbroker"))
    assert exec_start() == f"ExecStart={program} serve --idle-timeout 300"
    assert broker_answers()


@pytest.mark.parametrize("name", ["with space", "100%n", "a$HOME b", 'quo"te', "apo'strophe", "back\\slash;#=:{}", "größe"])
def test_paths_with_special_characters_are_escaped_for_systemd(opt: Path, name: str) -> None:
    script = installed_in(opt / name)
    run(str(script), "install-units")
    assert broker_answers(), exec_start()


def test_a_path_that_a_unit_file_cannot_contain_is_refused(opt: Path) -> None:
    script = installed_in(opt / "new\nline")
    output = run(str(script), "install-units", code=1)
    assert "a unit file cannot contain a path with such characters" in output
    assert not SERVICE.exists()


def test_a_link_in_the_place_of_a_unit_file_is_replaced_and_not_followed(opt: Path) -> None:
    victim = opt / "victim"
    victim.write_text("precious")
    SERVICE.parent.mkdir(parents=True, exist_ok=True)
    SERVICE.symlink_to(victim)
    run(str(SCRIPT), "install-units")
    assert victim.read_text() == "precious"
    assert not SERVICE.is_symlink()
    assert SERVICE.stat().st_mode & 0o7777 == 0o644
    assert sorted(path.name for path in SERVICE.parent.iterdir()) == ["nsbroker.service", "nsbroker.socket"]


def test_a_program_that_others_could_replace_is_refused(opt: Path, hidden: Path) -> None:
    ours = installed_in(opt / "ours")
    theirs = installed_in(opt / "theirs")
    os.chown(theirs.parent, ALICE, ALICE)
    group = installed_in(opt / "group")
    group.parent.chmod(0o775)
    sticky = installed_in(opt / "sticky")
    sticky.parent.chmod(0o1777)
    (opt / "link").symlink_to(theirs.parent)
    file = installed_in(opt / "file")
    os.chown(file, ALICE, ALICE)
    for program, reason in (
        (theirs, f"{theirs.parent} belongs to uid {ALICE}"),
        (group, f"{group.parent} can be written by the group 0"),
        (sticky, f"{sticky.parent} can be written by everyone"),
        (opt / "link/nsbroker", f"{theirs.parent} belongs to uid {ALICE}"),
        (file, f"{file} belongs to uid {ALICE}"),
        (installed_in(hidden / "bin"), "is below /tmp, which the service cannot see"),
    ):
        output = run(str(program), "install-units", code=1)
        assert reason in output
        assert output.count("\n") == 0, output
        assert not SERVICE.exists()
    run(str(ours), "install-units")
    assert exec_start().startswith(f"ExecStart={ours} serve")


def make_venv(place: Path, *packages: str) -> Path:
    """Make a virtual environment with nsbroker and some of the packages that it needs, and return its interpreter."""
    run(sys.executable, "-m", "venv", "--without-pip", str(place))
    here, there = (Path(sysconfig.get_path("purelib")), next((place / "lib").glob("python*/site-packages")))
    # Other tests compile modules at the same time, in the folder below this system's, where it may not see that.
    shutil.copytree(Path(__file__).parents[2] / "nsbroker", there / "nsbroker", ignore=shutil.ignore_patterns("__pycache__"))
    for package in packages:
        for found in here.glob(package):
            (shutil.copytree if found.is_dir() else shutil.copy)(found, there / found.name)
    share = place / "share/nsbroker"
    shutil.copytree(Path(__file__).parents[2] / "systemd", share / "systemd")
    return place / "bin/python"


def test_an_installation_that_cannot_serve_or_whose_parts_others_could_replace_is_refused(opt: Path, hidden: Path) -> None:
    python = make_venv(opt / "venv", "msgspec*")
    output = run(str(python), "-m", "nsbroker", "install-units", code=1)
    assert "this installation lacks trio, h11, jeepney, systemd-python: run in a checkout of nsbroker: " in output
    assert output.endswith(f"{python} -m pip install '.[daemon]'")
    # Python finds the package only because it is in the current folder.
    python = make_venv(opt / "elsewhere", "msgspec*")
    package = next((opt / "elsewhere/lib").glob("python*/site-packages/nsbroker"))
    package.rename(opt / "nsbroker")
    output = run(str(python), "-m", "nsbroker", "install-units", code=1, cwd=str(opt))
    assert "finds nsbroker only in the current folder" in output
    # All packages are there, but another user owns the folder of nsbroker, and then the interpreter behind the link.
    packages = ("msgspec*", "trio*", "jeepney*", "systemd*", "h11*", "anyio*", "attr*", "outcome*", "sniffio*",
                "sortedcontainers*", "idna*", "typing_extensions*")  # fmt: skip
    python = make_venv(opt / "whole", *packages)
    package = next((opt / "whole/lib").glob("python*/site-packages/nsbroker"))
    run(str(python), "-m", "nsbroker", "install-units")
    run(str(python), "-m", "nsbroker", "remove-units")
    for part in (package, opt / "whole/share/nsbroker/systemd/nsbroker.service"):
        os.chown(part, ALICE, ALICE)
        assert f"{part} belongs to uid {ALICE}" in run(str(python), "-m", "nsbroker", "install-units", code=1)
        os.chown(part, 0, 0)
    assert_man_pages_come_and_go(python, opt / "whole/share/nsbroker/man")
    shutil.copy(python.resolve(), opt / "interpreter")
    os.chown(opt / "interpreter", ALICE, ALICE)
    for link in python.parent.glob("python*"):
        link.unlink()
        link.symlink_to(opt / "interpreter")
    assert f"{opt}/interpreter belongs to uid {ALICE}" in run(str(python), "-m", "nsbroker", "install-units", code=1)


def assert_man_pages_come_and_go(python: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "nsbroker.1").write_text(".TH nsbroker 1\n")
    place = Path("/usr/local/share/man/man1/nsbroker.1")
    assert str(place) in run(str(python), "-m", "nsbroker", "install-units").splitlines()
    assert place.read_text() == ".TH nsbroker 1\n"
    assert f"removed {place}" in run(str(python), "-m", "nsbroker", "remove-units")
    assert not place.exists()


def test_removing_twice_is_harmless_and_says_so(opt: Path) -> None:
    run(str(SCRIPT), "install-units")
    assert f"removed {SERVICE}" in run(str(SCRIPT), "remove-units")
    assert "there was nothing to remove" in run(str(SCRIPT), "remove-units")
    # The unit files are gone, and the link that enables the socket is dangling.
    run(str(SCRIPT), "install-units")
    run("systemctl", "enable", "nsbroker.socket")
    shutil.rmtree("/usr/local/lib/systemd")
    assert "removed /etc/systemd/system/sockets.target.wants/nsbroker.socket" in run(str(SCRIPT), "remove-units")
    assert not os.path.lexists("/etc/systemd/system/sockets.target.wants/nsbroker.socket")


def test_remove_units_works_without_the_unit_files_of_the_installation(opt: Path) -> None:
    python = make_venv(opt / "venv", "msgspec*")
    run(str(SCRIPT), "install-units")
    shutil.rmtree(opt / "venv/share")
    assert f"removed {SERVICE}" in run(str(python), "-m", "nsbroker", "remove-units")
    assert not SERVICE.exists()


def test_an_installation_by_a_package_says_that_its_units_are_there(opt: Path) -> None:
    python = make_venv(opt / "venv", "msgspec*")
    shutil.rmtree(opt / "venv/share")
    command = [str(python), "-m", "nsbroker"]
    assert "this installation has no unit files" in run(*command, "install-units", code=1)
    packaged = Path("/usr/lib/systemd/system/nsbroker.socket")
    packaged.touch()
    try:
        output = run(*command, "install-units", code=1)
        assert output.startswith("nsbroker: there is nothing to install: the package of nsbroker brought its units, in /usr/lib/")
        assert output.count("\n") == 0
        assert "/usr/lib/systemd/system belong to a package" in run(*command, "remove-units")
    finally:
        packaged.unlink()


def test_removing_leaves_the_units_of_a_package_in_force(opt: Path) -> None:
    run(str(SCRIPT), "install-units")
    packaged = [Path("/usr/lib/systemd/system", name) for name in ("nsbroker.socket", "nsbroker.service")]
    for path in packaged:
        shutil.copy(SERVICE.with_name(path.name), path)
    try:
        run("systemctl", "enable", "--now", "nsbroker.socket")
        assert f"removed {SERVICE}" in run(str(SCRIPT), "remove-units")
        assert "there was nothing to remove" in run(str(SCRIPT), "remove-units")
        shown = run("systemctl", "show", "--property=ActiveState,UnitFileState,FragmentPath", "nsbroker.socket")
        found = dict(line.split("=", 1) for line in shown.splitlines())
        assert Path(found.pop("FragmentPath")).samefile(packaged[0])
        assert found == {"ActiveState": "active", "UnitFileState": "enabled"}
        with connect(ADDRESS, timeout=10) as broker:
            assert broker.who_am_i().uid == 0
    finally:
        run("systemctl", "disable", "--now", "nsbroker.socket", "nsbroker.service")
        for path in packaged:
            path.unlink()
        run("systemctl", "daemon-reload")
        run("groupdel", "nsbroker")


def test_what_to_do_next_is_a_hint_that_can_be_left_out(opt: Path) -> None:
    quiet = run(str(SCRIPT), "install-units", "--quiet").splitlines()
    assert str(SERVICE) in quiet
    usual = run(str(SCRIPT), "install-units").splitlines()
    assert usual[:-1] == quiet
    assert usual[-1].startswith("nsbroker: next: systemctl enable --now nsbroker.socket")


@pytest.mark.parametrize("program", ["/opt/missing", f"{sys.executable} -m missing"], ids=["no program", "no package"])
def test_a_service_that_cannot_start_refuses_clients_soon_and_starts_when_repaired(unit: Unit, program: str) -> None:
    """As after `pip uninstall` before `remove-units`."""
    unit.set(ExecStart=f"{program} serve")

    def ask() -> float:
        start = time.monotonic()
        with pytest.raises((NsbrokerError, OSError)), connect(ADDRESS, timeout=50) as broker:
            broker.who_am_i()
        return time.monotonic() - start

    # The client hangs while systemd keeps trying to start the service.  After that, nobody listens any more.
    waited = as_user(ALICE, ask)
    assert waited < 30
    eventually(lambda: run("systemctl", "show", "-P", "ActiveState", "nsbroker.socket") == "failed", "the socket fails")
    assert as_user(ALICE, ask) < 1
    unit.wait_for("failed")
    started = int(unit.prop("NRestarts"))
    time.sleep(2)
    assert int(unit.prop("NRestarts")) == started <= 10, "systemd does not try for ever"
    print(f"{program}: a client waited for {waited:.1f} s, {started} restarts")
    unit.clear()
    unit.run("systemctl", "reset-failed", "nsbroker.service")
    unit.run("systemctl", "restart", "nsbroker.socket")
    with connect(ADDRESS, timeout=10) as broker:
        assert broker.who_am_i().uid == 0


def test_crashes_and_idle_exits_do_not_make_systemd_give_up(unit: Unit) -> None:
    unit.serve("--idle-timeout", "0.3")
    for _ in range(3):
        with connect(ADDRESS, timeout=10) as broker:
            assert broker.who_am_i().uid == 0
        unit.wait_for("inactive")
    for _ in range(4):
        with connect(ADDRESS, timeout=10) as broker:
            assert broker.who_am_i().uid == 0
            first = unit.pid
            os.kill(first, 11)
            eventually(lambda: unit.pid not in (0, first), "the broker runs again")  # noqa: B023 - called at once
