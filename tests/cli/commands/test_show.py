"""`nsbroker show`."""

import json

import pytest

from nsbroker.model.identity import NamespaceType
from tests.cli.conftest import one_line
from tests.world import ALICE, Daemon, Sleeper, run_command


@pytest.mark.root
def test_show_lists_eight_namespaces_of_an_own_process(daemon: Daemon) -> None:
    with Sleeper(uid=ALICE) as sleeper:
        done = run_command("show", f"pid:{sleeper.pid}", "--json", uid=ALICE, address=daemon.address)
        assert done.returncode == 0, done.stderr
        assert {row["type"]: row["inode"] for row in json.loads(done.stdout)} == {str(k): sleeper.inode(k) for k in NamespaceType}
        table = run_command("show", f"pid:{sleeper.pid}", uid=ALICE, address=daemon.address).stdout.splitlines()
    assert table[0].split() == ["TYPE", "NAMESPACE", "OWNER", "YOURS"]
    assert len(table) == 9


@pytest.mark.root
def test_show_of_a_foreign_process_is_refused_until_a_rule_allows_it(daemon: Daemon, sleeper: Sleeper) -> None:
    target = f"pid:{sleeper.pid}"
    line = one_line(run_command("show", target, "--json", uid=ALICE, address=daemon.address), 1)
    assert "permission denied" in line
    assert target in line
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], namespaces=["*"])
    done = run_command("show", target, "--json", uid=ALICE, address=daemon.address)
    assert len(json.loads(done.stdout)) == 8


@pytest.mark.root
def test_show_names_what_the_policy_leaves_out(daemon: Daemon, sleeper: Sleeper) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], namespaces=["net", "uts"])
    done = run_command("show", f"pid:{sleeper.pid}", "--json", uid=ALICE, address=daemon.address)
    assert [row["type"] for row in json.loads(done.stdout)] == ["net", "uts"]
    assert "does not allow it: cgroup, ipc, mnt" in done.stderr
