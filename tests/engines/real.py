"""Real container engines.  Each is started once, with what it needs to run containers that only sleep."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.world import SLOWNESS, eventually

WORK = Path("/run/engines")
SLEEP = ("/bin/busybox", "sleep", "100000")
IMAGE = "localhost/bb:1"


def run(*command: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a program and return its output.  When it fails, the test fails with what it printed."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60 * SLOWNESS,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        env={**os.environ, **(env or {})},
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def missing_of(*programs: str) -> list[str]:
    """Return those of the programs that are missing."""
    return [program for program in programs if not Path(program).exists()]


def root_file_system() -> Path:
    """Return a root file system with one program (two megabytes), and make a tar file of it beside it."""
    tree = WORK / "bb"
    if not tree.exists():
        for name in ("bin", "etc", "proc", "sys", "dev", "tmp", "run", "root", "var", "usr", "www"):
            (tree / name).mkdir(parents=True)
        shutil.copy("/bin/busybox", tree / "bin")
        for name in ("sh", "sleep", "httpd"):
            (tree / "bin" / name).symlink_to("busybox")
        (tree / "www/index.html").write_text("hello from inside\n")
        run("tar", "-C", str(tree), "-cf", str(WORK / "bb.tar"), ".")
    return tree


def remove_group(name: str) -> None:
    """Remove a control group, and all groups below it, from every hierarchy, once they are empty.

    The monitor process of a container may take a moment to end.  After a while this gives up: the control groups are those of
    the machine, and containers of another run of tests may be in this one.
    """
    end = time.monotonic() + 5 * SLOWNESS
    while _has_processes(name) and time.monotonic() < end:
        time.sleep(0.02)
    for group in _groups_below(name):
        with contextlib.suppress(OSError):
            group.rmdir()


def _groups_below(name: str) -> Iterator[Path]:
    """Yield the control groups of that name and those below it, the innermost first."""
    for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir()):
        if (top / "cgroup.procs").exists():
            for group, _, _ in os.walk(top / name, topdown=False):
                yield Path(group)


def _has_processes(name: str) -> bool:
    for group in _groups_below(name):
        with contextlib.suppress(OSError):
            if (group / "cgroup.procs").read_text():
                return True
    return False


class Service:
    """A daemon that an engine needs."""

    def __init__(self, *command: str) -> None:
        with open(WORK / f"{Path(command[0]).name}.log", "ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def stop(self) -> None:
        """End it: ask it to, and kill it after a while."""
        self._process.terminate()
        try:
            self._process.wait(15 * SLOWNESS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Engine:
    """One engine.  Its containers are made by name and only sleep; `close` removes those that are left."""

    word = ""
    programs: Sequence[str] = ()
    groups: Sequence[str] = ()
    """The control groups that it leaves behind."""

    def __init__(self) -> None:
        self._made: list[str] = []

    @classmethod
    def missing(cls) -> list[str]:
        """Return the programs that it needs and that are not installed."""
        return missing_of(*cls.programs, "/bin/busybox")

    def start(self) -> None:
        """Start what must run before containers can."""

    def make(self, name: str) -> None:
        """Run a container."""
        self._made.append(name)
        self._make(name)

    def remove(self, name: str) -> None:
        """End and remove a container."""
        self._made.remove(name)
        self._remove(name)

    def _make(self, name: str) -> None:
        raise NotImplementedError

    def _remove(self, name: str) -> None:
        raise NotImplementedError

    def pid(self, name: str) -> int:
        """Return the number of a container's first process, as the engine itself prints it."""
        raise NotImplementedError

    def id(self, name: str) -> str:
        """Return the id of a container."""
        return name

    def rename(self, old: str, new: str) -> None:
        """Give a container another name."""
        self._rename(old, new)
        self._made[self._made.index(old)] = new

    def _rename(self, old: str, new: str) -> None:
        raise NotImplementedError

    def restart(self, name: str) -> None:
        """Stop and start a container."""
        raise NotImplementedError

    def stop(self) -> None:
        """End what `start` started."""

    def close(self) -> None:
        """Remove all containers, end what was started, and remove the control groups."""
        for name in list(self._made):
            self.remove(name)
        self.stop()
        for group in self.groups:
            remove_group(group)


class Podman(Engine):
    """podman, with crun or another runtime, perhaps in a user namespace."""

    word = "podman"
    programs: Sequence[str] = ("/usr/bin/podman", "/usr/bin/crun")
    groups = ("libpod_parent",)
    options: Sequence[str] = ()
    runtime = "crun"

    def start(self) -> None:
        root_file_system()
        limit = os.sysconf("SC_OPEN_MAX")
        (WORK / "containers.conf").write_text(
            f'[containers]\ndefault_ulimits = ["nofile={limit}:{limit}", "nproc=4096:4096"]\n'
            '[engine]\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        )
        self.podman("import", "-q", str(WORK / "bb.tar"), IMAGE)

    def podman(self, *arguments: str) -> str:
        """Run podman and return its output."""
        return run("/usr/bin/podman", *arguments, env={"CONTAINERS_CONF": str(WORK / "containers.conf")})

    def _make(self, name: str) -> None:
        self.podman("--runtime", self.runtime, "run", "-d", "--name", name, "--network", "none", *self.options, IMAGE, *SLEEP)

    def _remove(self, name: str) -> None:
        self.podman("rm", "-f", "-t0", name)

    def pid(self, name: str) -> int:
        return int(self.podman("inspect", "-f", "{{.State.Pid}}", name))

    def id(self, name: str) -> str:
        return self.podman("inspect", "-f", "{{.Id}}", name)

    def _rename(self, old: str, new: str) -> None:
        self.podman("rename", old, new)

    def restart(self, name: str) -> None:
        self.podman("restart", "-t0", name)

    def pause(self, name: str) -> None:
        """Pause a container."""
        self.podman("pause", name)

    def unpause(self, name: str) -> None:
        """Let a paused container go on."""
        self.podman("unpause", name)


class PodmanWithRunc(Podman):
    """podman, with runc."""

    programs = (*Podman.programs, "/usr/sbin/runc")
    runtime = "runc"


class PodmanWithUserNamespace(Podman):
    """podman, with each container in a user namespace of its own."""

    options = ("--uidmap", "0:200000:65536")


class Containerd(Engine):
    """containerd, with its own client."""

    word = "containerd"
    programs = ("/usr/bin/containerd", "/usr/bin/ctr")
    groups = ("default",)
    _service: Service | None = None
    _users = 0

    @classmethod
    def begin(cls) -> None:
        """Start containerd, unless it runs already: docker and Kubernetes use the same one."""
        Containerd._users += 1
        if Containerd._service is None:
            root_file_system()
            config = WORK / "containerd.toml"
            config.write_text(
                'version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nsandbox_image = "localhost/pause:1"\n'
                f'restrict_oom_score_adj = true\n[plugins."io.containerd.grpc.v1.cri".cni]\nbin_dir = "{WORK}/cni-bin"\n'
                f'conf_dir = "{WORK}/cni"\n'
            )
            _write_cni()
            Containerd._service = Service("/usr/bin/containerd", "-c", str(config))
            eventually(
                lambda: subprocess.run(["/usr/bin/ctr", "version"], capture_output=True).returncode == 0, "containerd answers"
            )

    @classmethod
    def end(cls) -> None:
        """Stop containerd when no engine uses it any more."""
        Containerd._users -= 1
        if not Containerd._users and Containerd._service is not None:
            Containerd._service.stop()
            Containerd._service = None

    @staticmethod
    def load(namespace: str, image: str) -> None:
        """Give containerd an image with our one program."""
        archive = WORK / f"{image.replace('/', '-').replace(':', '-')}.tar"
        if not archive.exists():
            _write_image(image, archive)
        run("/usr/bin/ctr", "-n", namespace, "images", "import", str(archive))

    def start(self) -> None:
        self.begin()
        self.load("default", IMAGE)

    def _make(self, name: str) -> None:
        run("/usr/bin/ctr", "run", "-d", IMAGE, name, *SLEEP)

    def _remove(self, name: str) -> None:
        run("/usr/bin/ctr", "task", "rm", "-f", name)
        run("/usr/bin/ctr", "container", "rm", name)

    def pid(self, name: str) -> int:
        rows = (line.split() for line in run("/usr/bin/ctr", "task", "ls").splitlines()[1:])
        return next(int(row[1]) for row in rows if row[0] == name)

    def stop(self) -> None:
        self.end()


def _write_cni() -> None:
    """Write a network plugin that gives a pod only its loopback, because the tests need no more of a pod's network."""
    (WORK / "cni").mkdir(exist_ok=True)
    (WORK / "cni-bin").mkdir(exist_ok=True)
    (WORK / "cni/10-none.conflist").write_text('{"cniVersion":"0.4.0","name":"none","plugins":[{"type":"none"}]}')
    plugin = WORK / "cni-bin/none"
    plugin.write_text(
        "#!/bin/sh\ncat >/dev/null\ncase $CNI_COMMAND in\n"
        'ADD) echo \'{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"\'$CNI_NETNS\'"}],'
        '"ips":[{"version":"4","interface":0,"address":"10.85.0.2/16"}]}\' ;;\n'
        'VERSION) echo \'{"cniVersion":"0.4.0","supportedVersions":["0.4.0"]}\' ;;\nesac\n'
    )
    plugin.chmod(0o755)
    loopback = WORK / "cni-bin/loopback"
    loopback.unlink(missing_ok=True)
    loopback.symlink_to("none")


def _write_image(name: str, archive: Path) -> None:
    """Write an image with our one program, in docker's archive format."""
    import hashlib
    import tarfile

    layer = WORK / "bb.tar"
    digest = hashlib.sha256(layer.read_bytes()).hexdigest()
    config = json.dumps(
        {
            "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[os.uname().machine],
            "os": "linux",
            "config": {"Cmd": list(SLEEP)},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
    )
    manifest = json.dumps([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}])
    (WORK / "config.json").write_text(config)
    (WORK / "manifest.json").write_text(manifest)
    with tarfile.open(archive, "w") as tar:
        tar.add(WORK / "manifest.json", "manifest.json")
        tar.add(WORK / "config.json", "config.json")
        tar.add(layer, "layer.tar")


class Docker(Engine):
    """docker."""

    word = "docker"
    programs = ("/usr/sbin/dockerd", "/usr/bin/docker", *Containerd.programs)
    groups = ("docker",)

    def __init__(self) -> None:
        super().__init__()
        self.service: Service | None = None

    def start(self) -> None:
        Containerd.begin()
        root_file_system()
        self.service = Service("/usr/sbin/dockerd", "--containerd", "/run/containerd/containerd.sock", "--iptables=false")
        eventually(lambda: subprocess.run(["/usr/bin/docker", "version"], capture_output=True).returncode == 0, "docker answers")
        self.docker("import", str(WORK / "bb.tar"), IMAGE)

    @staticmethod
    def docker(*arguments: str) -> str:
        """Run docker's client and return its output."""
        return run("/usr/bin/docker", *arguments, env={"DOCKER_HOST": "unix:///run/docker.sock"})

    def _make(self, name: str) -> None:
        self.docker("run", "-d", "--network", "none", "--name", name, IMAGE, *SLEEP)

    def _remove(self, name: str) -> None:
        self.docker("rm", "-f", name)

    def pid(self, name: str) -> int:
        return int(self.docker("inspect", "-f", "{{.State.Pid}}", name))

    def id(self, name: str) -> str:
        return self.docker("inspect", "-f", "{{.Id}}", name)

    def _rename(self, old: str, new: str) -> None:
        self.docker("rename", old, new)

    def restart(self, name: str) -> None:
        self.docker("restart", "-t0", name)

    def pause(self, name: str) -> None:
        """Pause a container."""
        self.docker("pause", name)

    def unpause(self, name: str) -> None:
        """Let a paused container go on."""
        self.docker("unpause", name)

    def stop(self) -> None:
        assert self.service is not None
        self.service.stop()
        Containerd.end()


class Cri(Engine):
    """containerd's interface for Kubernetes.  A pod NAMESPACE/POD has one container, c1."""

    word = "cri"
    programs = Containerd.programs
    groups = ("kubepods",)

    def __init__(self) -> None:
        super().__init__()
        self._pods: dict[str, dict[str, str]] = {}

    @classmethod
    def missing(cls) -> list[str]:
        """Return what is missing.  It needs a Python package, too, because Debian has no package with a client."""
        found = subprocess.run([sys.executable, "-c", "import cri_api"], capture_output=True).returncode == 0
        return super().missing() + ([] if found else ["the Python package container-runtime-interface-api"])

    def start(self) -> None:
        Containerd.begin()
        for image in (IMAGE, "localhost/pause:1"):
            Containerd.load("k8s.io", image)

    @staticmethod
    def _client(*arguments: str) -> dict[str, str]:
        # This runs in a process of its own, because grpc leaves threads behind.
        result: dict[str, str] = json.loads(run(sys.executable, str(Path(__file__).with_name("pod.py")), *arguments))
        return result

    def _make(self, name: str) -> None:
        namespace, pod, *_ = name.split("/")
        self._pods[f"{namespace}/{pod}"] = self._client("start", namespace, pod, IMAGE, *SLEEP)

    def _remove(self, name: str) -> None:
        self._client("stop", self._pods.pop("/".join(name.split("/")[:2]))["sandbox"])

    def _status(self, name: str) -> dict[str, str]:
        namespace, pod, *container = name.split("/")
        return self._client(
            "status", "container" if container else "sandbox", self.id(f"{namespace}/{pod}" + "/c1" * bool(container))
        )

    def pid(self, name: str) -> int:
        return int(self._status(name)["pid"])

    def id(self, name: str) -> str:
        namespace, pod, *container = name.split("/")
        return self._pods[f"{namespace}/{pod}"]["container" if container else "sandbox"]

    def stop(self) -> None:
        Containerd.end()


class Runc(Engine):
    """runc alone."""

    word = "runc"
    programs: Sequence[str] = ("/usr/sbin/runc",)
    groups: Sequence[str] = ()
    options: Sequence[str] = ()

    @property
    def _program(self) -> str:
        return self.programs[0]

    def start(self) -> None:
        tree = root_file_system()
        self._bundle = WORK / f"bundle-{self.word}"
        self._bundle.mkdir(exist_ok=True)
        (self._bundle / "config.json").unlink(missing_ok=True)
        run(self._program, "spec", cwd=self._bundle)
        path = self._bundle / "config.json"
        config = json.loads(path.read_text())
        config["process"] |= {"terminal": False, "args": list(SLEEP)}
        # The default limits may be above our hard limits.
        config["process"].pop("rlimits", None)
        config["root"] = {"path": str(tree), "readonly": True}
        path.write_text(json.dumps(config))

    def _make(self, name: str) -> None:
        # The container keeps the standard output open, so it must not be a pipe that is read to its end.
        command = [self._program, *self.options, "run", "-d", "--bundle", str(self._bundle), name]
        null = subprocess.DEVNULL
        assert subprocess.run(command, stdin=null, stdout=null, stderr=null, timeout=20 * SLOWNESS).returncode == 0, command

    def _remove(self, name: str) -> None:
        run(self._program, "delete", "-f", name)

    def pid(self, name: str) -> int:
        return int(json.loads(run(self._program, "state", name))["pid"])


class Crun(Runc):
    """crun alone."""

    word = "crun"
    programs = ("/usr/bin/crun",)

    def pause(self, name: str) -> None:
        """Pause a container."""
        run(self._program, "pause", name)

    def unpause(self, name: str) -> None:
        """Let a paused container go on."""
        run(self._program, "resume", name)


class Lxc(Engine):
    """lxc."""

    word = "lxc"
    programs = ("/usr/bin/lxc-start", "/usr/bin/lxc-create", "/usr/bin/lxc-info", "/usr/share/lxc/templates/lxc-busybox")

    def start(self) -> None:
        WORK.mkdir(exist_ok=True)
        (WORK / "lxc.conf").write_text("lxc.net.0.type = empty\n")

    def _make(self, name: str) -> None:
        run("/usr/bin/lxc-create", "-f", str(WORK / "lxc.conf"), "-n", name, "-t", "busybox")
        self._start(name)

    def _start(self, name: str) -> None:
        run("/usr/bin/lxc-start", "-n", name)
        run("/usr/bin/lxc-wait", "-n", name, "-s", "RUNNING", "-t", str(round(10 * SLOWNESS)))

    def _remove(self, name: str) -> None:
        run("/usr/bin/lxc-destroy", "-f", "-n", name)
        for group in ("lxc.pivot", f"lxc.monitor.{name}", f"lxc.payload.{name}"):
            remove_group(group)

    def pid(self, name: str) -> int:
        return int(run("/usr/bin/lxc-info", "-n", name, "-p", "-H"))

    def restart(self, name: str) -> None:
        run("/usr/bin/lxc-stop", "-k", "-n", name)
        self._start(name)


class Incus(Engine):
    """incus, started by systemd.  PROJECT/NAME is a container of a project that is not the default one."""

    word = "incus"
    programs = ("/usr/bin/incus", "/usr/libexec/incus/incusd")

    def start(self) -> None:
        root_file_system()
        (WORK / "metadata.yaml").write_text(f"architecture: {os.uname().machine}\ncreation_date: 1\n")
        run("tar", "-C", str(WORK), "-cf", str(WORK / "metadata.tar"), "metadata.yaml")
        run("systemctl", "start", "incus")
        self.incus("storage", "create", "default", "dir")
        self.incus("profile", "device", "add", "default", "root", "disk", "path=/", "pool=default")
        # The sleeping process ignores the signal to shut down, so the host need not wait long for it.
        self.incus("profile", "set", "default", f"raw.lxc=lxc.init.cmd = {' '.join(SLEEP)}", "boot.host_shutdown_timeout=1")
        self.incus("image", "import", str(WORK / "metadata.tar"), str(WORK / "bb.tar"), "--alias", "bb")

    @staticmethod
    def incus(*arguments: str) -> str:
        """Run incus' client and return its output."""
        return run("/usr/bin/incus", *arguments, env={"INCUS_CONF": str(WORK / "incus")})

    def on(self, name: str, command: str, *arguments: str) -> str:
        """Run a command of incus' client about a container, and return its output."""
        project, _, instance = name.rpartition("/")
        return self.incus(command, "--project", project or "default", instance, *arguments)

    def _make(self, name: str) -> None:
        project, _, instance = name.rpartition("/")
        self.incus("launch", "--quiet", "--project", project or "default", "bb", instance)

    def _remove(self, name: str) -> None:
        self.on(name, "delete", "--force")

    def pid(self, name: str) -> int:
        facts = dict(line.split(": ", 1) for line in self.on(name, "info").splitlines() if ": " in line)
        return int(facts["PID"])

    def _rename(self, old: str, new: str) -> None:
        self.on(old, "stop", "--force")
        self.on(old, "rename", new)
        self.on(new, "start")

    def restart(self, name: str) -> None:
        self.on(name, "restart", "--force")

    def pause(self, name: str) -> None:
        """Pause a container."""
        self.on(name, "pause")

    def unpause(self, name: str) -> None:
        """Let a paused container go on."""
        self.on(name, "resume")


def wait_for_end(pid: int) -> None:
    """Wait until a process is gone or is a zombie."""
    eventually(lambda: _state(pid) in ("", "Z"), f"process {pid} ends")


def _state(pid: int) -> str:
    """Return the state of a process as /proc shows it; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def end_process(pid: int) -> None:
    """Kill a process that a test started, and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    wait_for_end(pid)
