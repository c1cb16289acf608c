"""`nsbroker grant`, `grants` and `revoke`."""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.cli import grant_files, reloading
from nsbroker.cli.commands import grant, revoke
from nsbroker.cli.commands.grant import duration
from nsbroker.errors import CommandFailed, PermissionDenied, Timeout
from tests.world import ALICE, PATIENCE, SLOWNESS, Daemon, Sleeper, as_user, eventually, run_command


@pytest.fixture
def system(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with the system's configuration: grants are a part of it."""
    # Not forked: the command looks at the command line of who listens.
    daemon = Daemon(tmp_path, prefix=["env"])
    del daemon.command[-2:]
    assert not grant_files.DIRECTORY.exists(), "the tests' /run is empty"
    with daemon:
        yield daemon
    for path in grant_files.DIRECTORY.glob("*"):
        path.unlink()
    if grant_files.DIRECTORY.exists():
        grant_files.DIRECTORY.rmdir()


def opens(daemon: Daemon, target: str) -> bool:
    def attempt() -> bool:
        try:
            with daemon.connect() as broker:
                broker.open(target, "net").close()
        except PermissionDenied:
            return False
        return True

    return as_user(ALICE, attempt)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("0.5s", 0.5)]
)
def test_a_duration_has_units(text: str, seconds: float) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-1h", "0s", "1x", "1h 30m", "1e3s", "inf", "nan", "99999999999d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write 90s"):
        duration(text)


@pytest.mark.root
def test_a_grant_of_two_seconds_holds_for_one_and_not_for_three(system: Daemon, sleeper: Sleeper) -> None:
    target, seconds = f"pid:{sleeper.pid}", 2 * SLOWNESS
    assert not opens(system, target)
    done = run_command("grant", f"user:{ALICE}", target, "--namespaces", "net", "--for", f"{seconds:g}s", address=system.address)
    granted = time.monotonic()
    assert (done.returncode, done.stderr) == (0, ""), done
    assert f"granted to user:{ALICE} for {seconds:g} seconds" in done.stdout
    [listed] = json.loads(run_command("grants", "--json", address=system.address).stdout)
    assert (listed["who"], listed["targets"], listed["namespaces"]) == ([f"user:{ALICE}"], [target], ["net"])
    assert opens(system, target)
    time.sleep(max(0.0, granted + seconds + 0.5 - time.monotonic()))
    assert not opens(system, target)
    assert json.loads(run_command("grants", "--json", address=system.address).stdout) == []

    def ended() -> list[str]:
        return [record["rule"] for record in system.records() if record["verdict"] == "expired"]

    eventually(lambda: ended() == [listed["name"]], "the end is recorded")


@pytest.mark.root
def test_marks_and_interfaces_can_be_granted(system: Daemon) -> None:
    what = ("--sockets", "inet:dgram", "--marks", "0x100", "0x200-0x2ff", "--interfaces", "veth")
    done = run_command("grant", f"user:{ALICE}", "name:blue", *what, "--for", "1h", address=system.address)
    assert (done.returncode, done.stderr) == (0, ""), done
    [listed] = json.loads(run_command("grants", "--json", address=system.address).stdout)
    assert (listed["marks"], listed["interfaces"]) == (["0x100", "0x200-0x2ff"], ["veth"])


@pytest.mark.root
def test_a_grant_can_be_ended_before_its_time(system: Daemon, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    run_command("grant", f"user:{ALICE}", target, "--namespaces", "net", "--for", "1h", address=system.address)
    assert opens(system, target)
    [listed] = json.loads(run_command("grants", "--json", address=system.address).stdout)
    assert run_command("revoke", listed["name"], address=system.address).returncode == 0
    assert not opens(system, target)
    again = run_command("revoke", listed["name"], address=system.address)
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert "nsbroker grants" in again.stderr


@pytest.mark.root
def test_grants_of_one_user_have_names_of_their_own(system: Daemon) -> None:
    for _ in range(2):
        run_command("grant", f"user:{ALICE}", "name:blue", "--sockets", "inet:stream", "--for", "1h", address=system.address)
    table = run_command("grants", address=system.address).stdout.splitlines()
    assert [line.split()[0] for line in table] == ["GRANT", f"grant-{ALICE}-1", f"grant-{ALICE}-2"]
    assert "sockets: inet:stream" in table[1]


@pytest.mark.root
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["user:nobody-here", "name:x", "--namespaces", "net", "--for", "1h"], 1, "no user"),
        ([f"user:{ALICE}", "name:x", "--for", "1h"], 1, "allows nothing"),
        ([f"user:{ALICE}", "name:x", "--namespaces", "net", "--for", "8d"], 1, "longest-grant"),
        ([f"user:{ALICE}", "name:x", "--namespaces", "nett", "--for", "1h"], 1, "namespace type"),
        ([f"user:{ALICE}", "nonsense", "--namespaces", "net", "--for", "1h"], 2, "target"),
        ([f"user:{ALICE}", "no*nsense", "--namespaces", "net", "--for", "1h"], 1, "pattern"),
        (["alice", "name:x", "--namespaces", "net", "--for", "1h"], 1, "who"),
        ([f"user:{ALICE}", "name:x", "--namespaces", "net", "--for", "soon"], 2, "duration"),
        ([f"user:{ALICE}", "name:x", "--namespaces", "net"], 2, "--for"),
    ],
)
def test_what_cannot_be_granted_is_refused_in_one_line_and_leaves_nothing(
    system: Daemon, arguments: list[str], code: int, says: str
) -> None:
    done = run_command("grant", *arguments, address=system.address)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done
    assert says in done.stderr
    assert not list(grant_files.DIRECTORY.glob("*"))


@pytest.fixture
def broken() -> Iterator[Path]:
    """Yield the file of a rule that does not make sense, which can be written below /etc, and is removed afterwards."""
    path = Path("/etc/nsbroker/nsbroker.d/broken.toml")
    path.parent.mkdir(parents=True)
    yield path
    shutil.rmtree(path.parent.parent)


@pytest.mark.root
def test_a_broken_file_beside_it_is_an_error_at_once_and_not_after_the_time_out(system: Daemon, broken: Path) -> None:
    run_command("grant", f"user:{ALICE}", "name:a", "--namespaces", "net", "--for", "1h", address=system.address)
    [kept] = grant_files.DIRECTORY.glob("*.toml")
    broken.write_text('[[allow]]\nname = "broken"\nwho = "everyone"\ntargets = "name:x"\nnamespaces = "nett"\n')
    granted = run_command("grant", f"user:{ALICE}", "name:b", "--namespaces", "net", "--for", "1h", address=system.address)
    assert list(grant_files.DIRECTORY.glob("*")) == [kept]
    ended = run_command("revoke", kept.stem, address=system.address)
    assert not list(grant_files.DIRECTORY.glob("*"))
    for done in (granted, ended):
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
        assert "the broker keeps the rules that it has until the configuration is repaired" in done.stderr
        assert str(broken) in done.stderr
    assert not any("reloading failed" in line for line in system.words()), "the broker was not told to load it"


@pytest.mark.root
def test_a_broker_that_does_not_read_grants_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    # Not forked: the command looks at the command line of who listens.
    with Daemon(tmp_path, prefix=["env"]) as daemon:
        done = run_command("grant", f"user:{ALICE}", "name:x", "--namespaces", "net", "--for", "1h", address=daemon.address)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done
    assert "the broker does not read /run/nsbroker/nsbroker.d" in done.stderr
    assert "--config" in done.stderr
    assert not list(grant_files.DIRECTORY.glob("*"))
    grant_files.DIRECTORY.rmdir()


@pytest.mark.root
def test_only_root_gives_rights(system: Daemon) -> None:
    for arguments in (("grant", f"user:{ALICE}", "name:x", "--namespaces", "net", "--for", "1h"), ("revoke", "grant-x-1")):
        done = run_command(*arguments, uid=ALICE, address=system.address)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "only root" in done.stderr


@pytest.mark.root
def test_without_a_broker_the_grant_is_written_for_its_next_start(system: Daemon, sleeper: Sleeper) -> None:
    system.stop()
    target = f"pid:{sleeper.pid}"
    done = run_command("grant", f"user:{ALICE}", target, "--namespaces", "net", "--for", "1h", address=system.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert "does not run now" in done.stdout
    system.start()
    assert opens(system, target)


@pytest.mark.root
def test_files_of_grants_that_have_ended_are_removed_by_the_next_one(system: Daemon) -> None:
    run_command("grant", f"user:{ALICE}", "name:a", "--namespaces", "net", "--for", "0.2s", address=system.address)
    eventually(lambda: run_command("grants", "--json").stdout.strip() == "[]", "it ends")
    run_command("grant", f"user:{ALICE}", "name:b", "--namespaces", "net", "--for", "1h", address=system.address)
    [path] = grant_files.DIRECTORY.glob("*.toml")
    assert "name:b" in path.read_text()


@pytest.fixture
def directory() -> Iterator[Path]:
    """The folder of grants, which is removed afterwards."""
    grant_files.DIRECTORY.mkdir(parents=True)
    yield grant_files.DIRECTORY
    shutil.rmtree(grant_files.DIRECTORY)


def options(**more: object) -> argparse.Namespace:
    keys = ("sockets", "marks", "devices", "files", "interfaces", "create", "hold")
    permissions: dict[str, list[str]] = {"namespaces": ["net"], **{key: [] for key in keys}}
    return argparse.Namespace(**permissions, who=f"user:{ALICE}", targets=["name:a"], seconds=60.0, timeout=1.0, **more)


@pytest.mark.root
def test_a_grant_whose_reload_fails_is_taken_back_from_the_broker_too(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker can have loaded it when the command gives up waiting, which no test can time: so the reload is replaced."""
    files: list[list[Path]] = []

    def reload(timeout: float) -> bool:
        files.append(list(directory.glob("*")))
        raise Timeout(f"reload {len(files)}", timeout)

    monkeypatch.setattr(reloading, "reload_broker", reload)
    with pytest.raises(Timeout, match="reload 1"):
        grant.run(options())
    assert files == [[directory / f"grant-{ALICE}-1.toml"], []]


@pytest.mark.root
def test_a_grant_without_a_file_that_is_still_in_force_can_be_ended(system: Daemon, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    run_command("grant", f"user:{ALICE}", target, "--namespaces", "net", "--for", "1h", address=system.address)
    [path] = grant_files.DIRECTORY.glob("*.toml")
    path.unlink()
    assert opens(system, target)
    done = run_command("revoke", path.stem, address=system.address)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert not opens(system, target)
    again = run_command("revoke", path.stem, address=system.address)
    assert again.returncode == 1
    assert "there is no grant" in again.stderr


@pytest.mark.root
def test_when_it_cannot_be_known_whether_a_grant_was_loaded_the_broker_reloads(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reloads: list[float] = []
    monkeypatch.setattr(reloading, "reload_broker", reloads.append)
    for has_loaded, says, count in ((None, "whether there was one could not be found out", 1), (False, "`nsbroker grants`", 0)):
        reloads.clear()
        monkeypatch.setattr(reloading, "has_loaded", lambda *_, found=has_loaded: found)
        with pytest.raises(CommandFailed, match=f"there is no grant 'grant-x-1'.*{says}"):
            revoke.run(options(grant="grant-x-1"))
        assert len(reloads) == count


@pytest.mark.root
@pytest.mark.parametrize("name", ["foo", "grant-/../foo"])
def test_a_rule_that_is_no_grant_cannot_be_revoked(system: Daemon, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Root has written it, and the broker has it in force, so it stays."""
    path = grant_files.DIRECTORY / "foo.toml"
    path.parent.mkdir()
    path.write_text('[[allow]]\nname = "foo"\nwho = "everyone"\ntargets = "name:x"\nnamespaces = "net"\n')
    system.reload()
    monkeypatch.setenv("NSBROKER_ADDRESS", system.address)
    assert reloading.has_loaded("foo", path, 2 * PATIENCE)
    done = run_command("revoke", name, address=system.address)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert f"{name!r} is not the name of a grant" in done.stderr
    assert path.exists()


@pytest.mark.root
def test_files_without_rules_are_no_grants_that_have_ended(directory: Path) -> None:
    (directory / "grant-mask.toml").symlink_to("/dev/null")
    (directory / "grant-empty.toml").write_text("# nothing\n")
    grant_files.remove_ended()
    assert len(list(directory.iterdir())) == 2


@pytest.mark.root
@pytest.mark.parametrize("step", ["nsbroker.cli.grant_files._make_directory", "nsbroker.daemon.policy.rules.load"])
def test_two_grants_at_once_get_names_of_their_own(directory: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """The other command writes its grant after this one has read the names, and while this one writes its file."""
    new = grant_files.Grant(f"user:{ALICE}", ["name:a"], {"namespaces": ["net"]}, 60.0)
    module, _, name = step.rpartition(".")
    real = getattr(sys.modules[module], name)
    others: list[str] = []

    def meanwhile(*arguments: Path) -> object:
        monkeypatch.undo()
        others.append(grant_files.write_grant(new))
        return real(*arguments)

    monkeypatch.setattr(step, meanwhile)
    names = [grant_files.write_grant(new), *others]
    assert sorted(names) == [f"grant-{ALICE}-1", f"grant-{ALICE}-2"]
    for one in names:
        assert f'name = "{one}"' in (directory / f"{one}.toml").read_text()
    assert len(list(directory.iterdir())) == 2
