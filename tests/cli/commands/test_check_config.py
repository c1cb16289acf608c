"""`nsbroker check-config`."""

import json

from tests.cli.conftest import one_line
from tests.world import Daemon, run_command


def test_check_config_shows_the_rules_or_the_one_thing_that_is_wrong(daemon: Daemon) -> None:
    done = run_command("check-config", "--config", str(daemon.config))
    head = [
        "RULE",
        "WHO",
        "TARGETS",
        "NAMESPACES",
        "SOCKETS",
        "MARKS",
        "DEVICES",
        "FILES",
        "INTERFACES",
        "CREATE",
        "HOLD",
        "WRITTEN-IN",
    ]
    assert (done.returncode, done.stdout.split()[: len(head)]) == (0, head)
    assert [
        rule["name"] for rule in json.loads(run_command("check-config", "--json", "--config", str(daemon.config)).stdout)["allow"]
    ] == [
        "root",
        "own",
    ]
    bad = daemon.config / "nsbroker.d/bad.toml"
    bad.write_text('[[allow]]\nnmae = "x"\n')
    line = one_line(run_command("check-config", "--config", str(daemon.config)), 1)
    assert f"{bad}: rule 1: unknown key 'nmae', did you mean 'name'?" in line


def test_check_config_warns_about_users_that_do_not_exist(daemon: Daemon) -> None:
    daemon.allow("ghost", who=["user:nosuchuser"], targets=["own"], namespaces=["net"])
    done = run_command("check-config", "--config", str(daemon.config))
    assert done.returncode == 0
    assert "nosuchuser" in done.stderr
