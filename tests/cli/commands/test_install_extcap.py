"""`nsbroker install-extcap` and `nsbroker remove-extcap`, in the home folder of a user."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nsbroker.cli import extcap_folder
from nsbroker.errors import CommandFailed
from nsbroker.version import VERSION
from tests.cli.conftest import one_line
from tests.world import ALICE, run_command

pytestmark = pytest.mark.root


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(folder))
    return folder


def installed(home: Path) -> list[Path]:
    return [path for path in home.rglob("*") if path.is_file()]


def test_the_program_is_what_wireshark_starts(home: Path) -> None:
    done = run_command("install-extcap", uid=ALICE)
    assert (done.returncode, done.stderr) == (0, "")
    [program] = installed(home)
    assert done.stdout.splitlines()[0] == str(program)
    assert program.name == "nsbroker"
    assert program.parent.parts[-2:] == ("wireshark", "extcap")
    assert program.stat().st_mode & 0o777 == 0o755
    # Wireshark has another current folder.
    asked = subprocess.run([program, "--extcap-interfaces"], cwd="/", env={}, capture_output=True, text=True, check=True)
    assert (asked.stdout, asked.stderr) == (f"extcap {{version={VERSION}}}{{display=nsbroker}}\n", "")
    # After an upgrade, it is written again.
    assert run_command("install-extcap", "--user", uid=ALICE).returncode == 0
    assert installed(home) == [program]
    assert run_command("remove-extcap", uid=ALICE).stdout == f"removed {program}\n"
    assert installed(home) == []
    again = run_command("remove-extcap", uid=ALICE)
    assert (again.returncode, again.stdout) == (0, "there was nothing to remove\n")


def test_a_program_of_somebody_else_stays(home: Path) -> None:
    run_command("install-extcap", uid=ALICE)
    [program] = installed(home)
    program.write_text("#!/bin/sh\necho another\n")
    for command in ("install-extcap", "remove-extcap"):
        assert f"{program} was not written by `nsbroker install-extcap`" in one_line(run_command(command, uid=ALICE), 1)
    assert program.read_text() == "#!/bin/sh\necho another\n"


def test_what_cannot_be_written_is_one_line(home: Path) -> None:
    home.chmod(0o755)
    assert os.stat(home).st_uid != ALICE
    assert "Permission denied" in one_line(run_command("install-extcap", uid=ALICE), 1)


@pytest.fixture
def tshark(home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Put a tshark into $PATH that answers `-G folders` with the given lines.

    It is none, because there can be only one version of Wireshark here.
    """
    program = home / "bin/tshark"
    program.parent.mkdir(mode=0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    def answer(lines: str) -> None:
        program.write_text(f"#!/bin/sh\ncat <<EOF\n{lines}\nEOF\n")
        program.chmod(0o755)

    return answer


@pytest.mark.parametrize(
    ("lines", "place"),
    [
        (
            "Personal Extcap path:\t{home}/.local/lib/wireshark/extcap\nGlobal Extcap path: \t/nowhere",
            ".local/lib/wireshark/extcap",
        ),
        ("Personal configuration:\t{home}/.config/wireshark\nExtcap path:         \t/nowhere", ".config/wireshark/extcap"),
        ("no answer", ".local/lib/wireshark/extcap"),
    ],
    ids=["since 4.2", "before 4.2", "unknown"],
)
def test_it_is_where_this_version_of_wireshark_looks(tshark: Callable[[str], None], home: Path, lines: str, place: str) -> None:
    tshark(lines.format(home=home))
    assert run_command("install-extcap", uid=ALICE).stdout.splitlines()[0] == str(home / place / "nsbroker")
    assert run_command("remove-extcap", uid=ALICE).stdout == f"removed {home / place / 'nsbroker'}\n"


def test_a_program_that_is_too_slow_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "tshark"
    program.write_text("#!/bin/sh\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(extcap_folder, "_SECONDS", 0.2)
    with pytest.raises(CommandFailed, match=r"`tshark -G folders` did not end within 0\.2 seconds: run it yourself"):
        extcap_folder.remove(system=False)
    with pytest.raises(CommandFailed, match=f"`{program} --version` did not end within"):
        extcap_folder._check_starts([str(program)])


@pytest.mark.parametrize("title", ["Global Extcap path", "Extcap path"])
def test_root_installs_it_for_all_users(tshark: Callable[[str], None], home: Path, title: str) -> None:
    tshark(f"{title}:\t{home}/extcap")
    done = run_command("install-extcap", "--system")
    if "who could make root run any program" in done.stderr:
        pytest.skip("others than root can change this installation: it was not installed for all users")
    assert done.stdout.splitlines()[0] == f"{home}/extcap/nsbroker"
    assert one_line(run_command("remove-extcap", "--system", uid=ALICE), 1).endswith("Permission denied: --system needs root")
    assert run_command("remove-extcap", "--system").stdout == f"removed {home}/extcap/nsbroker\n"


def test_only_root_can_install_it_for_all_users(home: Path) -> None:
    # Which step refuses depends on where this installation is, and on whether Wireshark is installed.
    one_line(run_command("install-extcap", "--system", uid=ALICE), 1)
    assert installed(home) == []
    assert "not allowed with" in one_line(run_command("install-extcap", "--system", "--user"), 2)
