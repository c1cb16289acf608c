"""Changes of podman's containers, what only its API knows, and rootless containers."""

import os
import pwd
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsbroker.errors import NoSuchTarget
from nsbroker.linux.features import features
from nsbroker.model.identity import NamespaceType
from tests.engines import real
from tests.engines.conftest import started
from tests.engines.real import IMAGE, SLEEP, WORK, Podman
from tests.engines.test_workloads import inside, verdict
from tests.world import ALICE, PATIENT, Daemon, Sleeper, eventually, run_command

pytestmark = pytest.mark.root
ROOTLESS = 4101
OTHER = 4102


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    for engine in started(Podman):
        assert isinstance(engine, Podman)
        yield engine


def net(pid: int) -> int:
    return os.stat(f"/proc/{pid}/ns/net").st_ino


def test_a_container_is_the_right_one_after_each_change(podman: Podman, daemon: Daemon) -> None:
    podman.make("web")
    name = "web"
    with daemon.connect() as broker:
        for turn in range(15):
            if turn % 3 == 0:
                podman.rename(name, f"web{turn}")
                with pytest.raises(NoSuchTarget):
                    broker.open(f"podman:{name}", "net")
                name = f"web{turn}"
            elif turn % 3 == 1:
                podman.restart(name)
            else:
                podman.remove(name)
                podman.make(name)
            with broker.open(f"podman:{name}", "net") as ns:
                assert ns.inode == net(podman.pid(name)), turn
    podman.remove(name)


def test_lists_come_from_the_api_where_it_is_served_and_from_the_files_otherwise(podman: Podman, daemon: Daemon) -> None:
    path = Path("/run/podman/podman.sock")
    path.parent.mkdir(exist_ok=True)
    podman.podman("run", "-d", "--network", "none", "--name", "rooted", "--label", "a=b", "--rootfs", str(WORK / "bb"), *SLEEP)
    podman.make("web")
    podman.pause("web")

    def listed() -> dict[str, tuple[str, str | None]]:
        with daemon.connect() as broker:
            return {one.names[0]: (one.state, one.labels.get("a")) for one in broker.containers().containers}

    try:
        with daemon.connect() as broker, broker.open("podman:rooted", "net") as ns:
            assert ns.inode == net(podman.pid("rooted")), "a container without storage of its own"
        assert listed() == {"rooted": ("running", None), "web": ("paused", None)}
        api = real.Service("/usr/bin/podman", "system", "service", "--time=0", f"unix://{path}")
        try:
            eventually(path.exists, "the API is served")
            assert listed() == {"rooted": ("running", "b"), "web": ("paused", None)}
            (daemon.config / "nsbroker.d/api.toml").write_text(f'[engines]\npodman = ["{path}"]\n')
            daemon.reload()
            with daemon.connect() as broker, broker.open("podman:web", "net") as ns:
                assert ns.inode == net(podman.pid("web")), "only the API is configured"
            (daemon.config / "nsbroker.d/api.toml").unlink()
            daemon.reload()
        finally:
            api.stop()
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        assert set(listed()) == {"rooted", "web"}, "a socket that nobody serves is like none"
    finally:
        podman.unpause("web")
        podman.remove("web")
        podman.podman("rm", "-f", "-t0", "rooted")
        path.unlink(missing_ok=True)


@pytest.mark.skipif(not features().peer_pidfd, reason="before Linux 6.5 the kernel does not show which process connected")
def test_a_rule_for_a_container_of_another_runtime_needs_the_api(podman: Podman, daemon: Daemon, sleeper: Sleeper) -> None:
    """The other runtime is crun with its state in another place."""
    path, runtime = Path("/run/podman/podman.sock"), WORK / "other-runtime"
    path.parent.mkdir(exist_ok=True)
    runtime.write_text('#!/bin/sh\nexec /usr/bin/crun --root /run/other-runtime "$@"\n')
    runtime.chmod(0o755)
    target = f"pid:{sleeper.pid}"
    daemon.allow("agents", who=["podman:other"], targets=[target], namespaces=["net"])
    podman.podman("--runtime", str(runtime), "run", "-d", "--network", "none", "--name", "other", IMAGE, *SLEEP)
    try:
        assert inside(podman, "other", ALICE, lambda: verdict(daemon, target)) == ("denied", None)
        api = real.Service("/usr/bin/podman", "system", "service", "--time=0", f"unix://{path}")
        try:
            eventually(path.exists, "the API is served")
            assert inside(podman, "other", ALICE, lambda: verdict(daemon, target)) == ("allowed", "podman:other")
        finally:
            api.stop()
    finally:
        podman.podman("rm", "-f", "-t0", "other")
        path.unlink(missing_ok=True)


def test_the_random_id_that_podman_gives_its_runtime_fits_no_pattern_for_names(podman: Podman, daemon: Daemon) -> None:
    for digit in "0123456789abcdef":
        targets = [f"{kind}:{digit}*" for kind in ("container", "crun", "runc", "containerd")]
        daemon.allow(f"id-{digit}", who=[f"user:{OTHER}"], targets=targets, namespaces=["net"])
    podman.make("zoo")
    identifier = podman.id("zoo")
    try:
        for target in (
            "container:zoo",
            f"container:{identifier}",
            f"crun:{identifier}",
            f"crun:{identifier[:12]}",
            f"podman:{identifier}",
        ):
            refused = run_command("show", target, uid=OTHER, address=daemon.address)
            assert (refused.returncode, refused.stdout) == (1, ""), target
        assert run_command("containers", uid=OTHER, address=daemon.address).stdout.count("\n") == 1
        # A user who may open everything still finds it by that id, and a rule for the name allows it by any of its ids.
        assert run_command("show", f"crun:{identifier}", "--type", "net", address=daemon.address).returncode == 0
        daemon.allow("zoo", who=[f"user:{OTHER}"], targets=["podman:zoo"], namespaces=["net"])
        for target in ("container:zoo", f"container:{identifier}", f"podman:{identifier[:12]}"):
            shown = run_command("show", target, "--type", "net", uid=OTHER, address=daemon.address)
            assert shown.returncode == 0, f"{target}: {shown.stderr}"
    finally:
        podman.remove("zoo")


class Rootless(Podman):
    """podman, run by a user without any privilege."""

    programs = (*Podman.programs, "/usr/bin/newuidmap")
    options = ("--cgroups=disabled",)

    def start(self) -> None:
        home, runtime = Path("/run/home/rootless"), Path(f"/run/user/{ROOTLESS}")
        try:
            pwd.getpwuid(ROOTLESS)
        except KeyError:
            real.run("useradd", "--no-log-init", "--create-home", "--home-dir", str(home), "--uid", str(ROOTLESS), "rootless")
        runtime.mkdir(parents=True, exist_ok=True)
        os.chown(runtime, ROOTLESS, ROOTLESS)
        runtime.chmod(0o700)
        super().start()

    def podman(self, *arguments: str) -> str:
        drop = ["setpriv", f"--reuid={ROOTLESS}", f"--regid={ROOTLESS}", "--clear-groups", "env", "-C", "/"]
        variables = [
            "HOME=/run/home/rootless",
            f"XDG_RUNTIME_DIR=/run/user/{ROOTLESS}",
            f"CONTAINERS_CONF={WORK}/containers.conf",
        ]
        return real.run(*drop, *variables, "/usr/bin/podman", *arguments)


@pytest.fixture
def patient(tmp_path: Path) -> Iterator[Daemon]:
    """A broker that gives users' own engines a long time to answer.

    It may not lower the priority of the processes that ask them, as in the unit that ships: on a busy machine, a process of the
    lowest priority may get no processor for a minute.
    """
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n\n\ndef refuse(*_):\n    raise PermissionError\n\n\nos.setpriority = refuse\n"
    )
    with Daemon(tmp_path, limits=PATIENT, prefix=("env", f"PYTHONPATH={tmp_path}")) as running:
        yield running


@pytest.fixture(scope="module")
def rootless() -> Iterator[Podman]:
    for engine in started(Rootless):
        assert isinstance(engine, Podman)
        yield engine


def test_a_users_own_container_is_opened_and_entered_by_that_user_alone(rootless: Podman, patient: Daemon) -> None:
    rootless.make("web")
    patient.allow("names", who="everyone", targets=["podman:web"], namespaces=["*"])
    try:
        expected = net(rootless.pid("web"))
        for target in ("podman:web", "container:web", f"podman:{rootless.id('web')[:12]}"):
            shown = run_command("show", target, "--type", "net", uid=ROOTLESS, address=patient.address)
            assert f"net:[{expected}]" in shown.stdout, shown.stderr
        inside = run_command(
            "exec", "podman:web", "--", "/bin/busybox", "cat", "/www/index.html", uid=ROOTLESS, address=patient.address
        )
        assert inside.stdout == "hello from inside\n", inside.stderr
        # No rule can match it by name, because the user chose the name.
        for uid in (OTHER, 0):
            refused = run_command("show", "podman:web", uid=uid, address=patient.address)
            assert (refused.returncode, refused.stdout) == (1, ""), uid
        assert "web" not in run_command("containers", uid=OTHER, address=patient.address).stdout
        assert "web" in run_command("containers", uid=ROOTLESS, address=patient.address).stdout
        assert {record["target"] for record in patient.records() if record.get("namespaces")} == {f"podman@{ROOTLESS}:web"}
    finally:
        rootless.remove("web")


def test_a_process_that_is_not_root_inside_is_still_the_users_own(rootless: Podman, patient: Daemon) -> None:
    rootless.podman("run", "-d", "--network", "none", "--user", "1000", "--name", "web", *rootless.options, IMAGE, *SLEEP)
    try:
        pid = rootless.pid("web")
        assert os.stat(f"/proc/{pid}").st_uid not in (0, ROOTLESS)
        shown = run_command("show", "podman:web", "--json", uid=ROOTLESS, address=patient.address)
        assert all(f'"{ns_type}"' in shown.stdout for ns_type in NamespaceType), shown.stderr
        # By its number it is nobody's own: the kernel does not let the user look into it from outside its user namespace.
        assert run_command("show", f"pid:{pid}", uid=ROOTLESS, address=patient.address).returncode == 1
    finally:
        rootless.podman("rm", "-f", "-t0", "web")


def test_a_users_engine_cannot_claim_a_process_of_somebody_else(rootless: Podman, patient: Daemon) -> None:
    rootless.make("web")
    status = Path(f"/run/user/{ROOTLESS}/crun/{rootless.id('web')}/status")
    true = status.read_text()
    victim = subprocess.Popen(["unshare", "--net", "--user", *("sleep", "100")])
    try:
        start = Path(f"/proc/{victim.pid}/stat").read_text().rpartition(")")[2].split()[19]
        old = Path(f"/proc/{rootless.pid('web')}/stat").read_text().rpartition(")")[2].split()[19]
        status.write_text(true.replace(str(rootless.pid("web")), str(victim.pid)).replace(old, start))
        refused = run_command("show", "podman:web", uid=ROOTLESS, address=patient.address)
        assert (refused.returncode, refused.stdout) == (1, ""), refused.stdout
        assert patient.records()[-1]["verdict"] == "denied"
        assert run_command("containers", uid=ROOTLESS, address=patient.address).stdout.count("\n") == 1
    finally:
        victim.kill()
        victim.wait()
        status.write_text(true)
        rootless.remove("web")
