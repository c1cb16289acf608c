"""`nsbroker check-config`."""

import json

from tests.world import Daemon, eventually, run_command


def test_check_config_shows_the_rules(daemon: Daemon) -> None:
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


def test_every_mistake_of_every_file_is_one_line_with_file_line_and_key(daemon: Daemon) -> None:
    bad, worse = (daemon.config / "nsbroker.d" / name for name in ("bad.toml", "worse.toml"))
    bad.write_text('[[allow]]\nnmae = "x"\nwho = "everyone"\ntargets = "own"\nsockets = ["inet"]\n')
    worse.write_text("[limits]\nconnections = 0\n")
    done = run_command("check-config", "--config", str(daemon.config))
    assert (done.returncode, done.stdout) == (1, "")
    said = [
        f"{bad}:1: rule 1: the key 'name' is missing",
        f"{bad}:2: rule 1: unknown key 'nmae': did you mean 'name'?",
        f"{bad}:5: rule 1: sockets: 'inet' is no kind of socket",
        f"{worse}:2: limits: connections is out of range",
    ]
    found = [line.removeprefix("nsbroker: ") for line in done.stderr.splitlines()]
    assert [line.startswith(words) for line, words in zip(found, said, strict=True)] == [True] * 4, found


def test_files_that_are_not_read_are_in_the_table_the_json_and_the_warnings(daemon: Daemon) -> None:
    (daemon.config / "nsbroker.d/web.conf").write_text("")
    done = run_command("check-config", "--config", str(daemon.config))
    rows = [line.split(maxsplit=1) for line in done.stdout.partition("\nFILE ")[2].splitlines()[1:]]
    state = "not read: its name does not end in .toml: rename it, or move it away"
    path = f"{daemon.config}/nsbroker.d/web.conf"
    assert rows == [[f"{daemon.config}/nsbroker.toml", "read"], [path, state]]
    assert f"warning: {path}: {state}" in done.stderr
    reply = json.loads(run_command("check-config", "--json", "--config", str(daemon.config)).stdout)
    assert (reply["files"], reply["notRead"]) == ([rows[0][0]], [{"file": path, "reason": state.removeprefix("not read: ")}])
    assert f"{path}: {state}" in reply["warnings"]
    daemon.reload()
    eventually(lambda: any(f"warning: {path}: {state}" in line for line in daemon.words()), "the daemon warns, too")


def test_check_config_warns_about_users_that_do_not_exist(daemon: Daemon) -> None:
    daemon.allow("ghost", who=["user:nosuchuser"], targets=["own"], namespaces=["net"])
    done = run_command("check-config", "--config", str(daemon.config))
    assert done.returncode == 0
    assert "nosuchuser" in done.stderr
