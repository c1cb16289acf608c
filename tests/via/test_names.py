"""Host names mean what they mean in the target, for every program and without privilege."""

import ctypes
import errno
import os
import platform
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nsbroker.via.trio
from nsbroker import via
from tests.named_place import ADDRESS, Place, named_place
from tests.via.conftest import KINDS, PAGE, need, serve
from tests.world import ALICE, LINUX, NOBODY, Daemon, as_user, run_command

pytestmark = pytest.mark.root

GETADDRINFO = "import socket, sys; print(socket.getaddrinfo(sys.argv[1], 80, type=socket.SOCK_STREAM)[0][4][0])"
# As numbers of x86-64 and of the others.
UNSHARE, MOUNT = (272, 165) if platform.machine() == "x86_64" else (97, 40)
LINE = "nsbroker: host names are looked up as the host's own configuration says: "


@pytest.fixture
def place(daemon: Daemon) -> Iterator[Place]:
    """A place with a web server, where NOBODY and root may have sockets and files."""
    if LINUX < (5, 14):
        pytest.skip("this kernel is older than 5.14: no program was run via the broker")
    with named_place() as place:
        daemon.allow("nobody", who=[f"user:{NOBODY}", "user:0"], targets=["pid:*"], sockets=KINDS, files=["resolv.conf", "hosts"])
        server = threading.Thread(target=serve, args=(place.listener,))
        server.start()
        yield place
        place.listener.shutdown(socket.SHUT_RDWR)
        server.join()


def run(daemon: Daemon, place: Place, *command: str, uid: int = NOBODY) -> "subprocess.CompletedProcess[str]":
    done = run_command("via", place.target, "--", *command, uid=uid, address=daemon.address)
    if "user namespaces are not allowed here" in done.stderr and uid:
        pytest.skip("users may not create user namespaces here: no name was looked up as the target does")
    return done


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (["curl", "-sS", "http://web.test:PORT/"], PAGE.decode()),
        (["curl", "-sS", "http://file:PORT/"], PAGE.decode()),
        (["getent", "hosts", "web.test"], f"{ADDRESS:<15} web.test\n"),
        (["getent", "ahostsv4", "file"], f"{ADDRESS:<15} STREAM file.test\n"),
        ([sys.executable, "-c", GETADDRINFO, "db"], f"{ADDRESS}\n"),
        ([sys.executable, "-c", GETADDRINFO, "six.test"], "2001:db8::7\n"),
        (["dig", "+short", "web.test"], f"{ADDRESS}\n"),
        (["wget", "-qO-", "http://web.test:PORT/"], PAGE.decode()),
        (["busybox", "wget", "-qO-", "http://web.test:PORT/"], PAGE.decode()),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_name_is_what_it_is_in_the_target(daemon: Daemon, place: Place, command: list[str], answer: str, uid: int) -> None:
    need(command[0])
    done = run(daemon, place, *(word.replace("PORT", str(place.port)) for word in command), uid=uid)
    assert (done.stderr, done.stdout[: len(answer)]) == ("", answer), done


def test_the_command_is_the_same_user_in_the_same_folder_and_leaves_nothing(daemon: Daemon, place: Place) -> None:
    code = (
        "import os; print(os.getuid(), os.getgid(), os.getcwd(), os.readlink('/proc/self/ns/net'), len(os.listdir('/proc')) > 50)"
    )
    code += "; print(open('/etc/hosts').read().strip())"
    before = (Path("/etc/hosts").read_bytes(), Path("/proc/self/mountinfo").read_text())
    done = run(daemon, place, sys.executable, "-c", code)
    here = f"{NOBODY} {NOBODY} {os.getcwd()} {os.readlink('/proc/self/ns/net')} True"
    assert (done.stdout.splitlines(), done.stderr) == ([here, f"{ADDRESS} file.test file"], "")
    after = (Path("/etc/hosts").read_bytes(), Path("/proc/self/mountinfo").read_text())
    assert after == before


@pytest.mark.parametrize("files", [[], ["hosts"]])
def test_without_the_permission_the_command_runs_and_one_line_says_whose_names_it_has(
    daemon: Daemon, place: Place, files: list[str]
) -> None:
    daemon.allow("alice", who=[f"user:{ALICE}"], targets=["pid:*"], sockets=KINDS, **({"files": files} if files else {}))
    done = run_command(
        "via", place.target, "--", "curl", "-sS", f"http://{ADDRESS}:{place.port}/", uid=ALICE, address=daemon.address
    )
    assert (done.returncode, done.stdout) == (0, PAGE.decode())
    [line] = done.stderr.splitlines()
    assert line.startswith(LINE)
    assert "lets you have the file resolv.conf there" in line


def forbid(call: int, number: int) -> None:
    """Make a system call fail in the calling process, as sandboxes do."""
    lines = [(0x20, 0, 0, 0), (0x15, 0, 1, call), (0x06, 0, 0, 0x50000 | number), (0x06, 0, 0, 0x7FFF0000)]
    text = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in lines))
    program = struct.pack("@HxxxxxxP", len(lines), ctypes.addressof(text))
    libc = ctypes.CDLL(None)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, program, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER


@pytest.mark.parametrize("uid", [NOBODY, 0], ids=["nobody", "root"])
@pytest.mark.parametrize(
    ("call", "number", "reason"),
    [
        (UNSHARE, errno.EPERM, "not allowed here"),
        (UNSHARE, errno.ENOSPC, "user.max_user_namespaces"),
        (MOUNT, errno.EACCES, "nothing can be mounted over / (Permission denied)"),
    ],
)
def test_where_it_is_forbidden_the_command_runs_as_before(
    daemon: Daemon, place: Place, uid: int, call: int, number: int, reason: str
) -> None:
    code = "import os; print(os.readlink('/proc/self/ns/user'), os.readlink('/proc/self/ns/mnt'), os.getuid())"
    code = f"{code}; import socket; socket.create_connection(('{ADDRESS}', {place.port})).close()"

    def attempt() -> Any:
        errors = os.memfd_create("errors")
        os.dup2(errors, 2)
        done = via.run(
            [sys.executable, "-c", code],
            place.target,
            address=daemon.address,
            preexec_fn=lambda: forbid(call, number),
            capture_output=True,
            text=True,
        )
        return done.stdout, done.stderr, os.pread(errors, 9999, 0).decode()

    output, errors, line = as_user(uid, attempt)
    assert (output, errors) == (f"{os.readlink('/proc/self/ns/user')} {os.readlink('/proc/self/ns/mnt')} {uid}\n", "")
    assert line.startswith(LINE)
    assert reason in line
    assert line.count("\n") == 1


def test_links_of_the_host_are_followed_and_its_services_do_not_answer(daemon: Daemon, place: Place) -> None:
    """As with systemd-resolved: /etc/resolv.conf is a link, and a service answers for all programs."""
    code = """
import socket, sys
print(open("/etc/resolv.conf").read().split()[1])
for path in ("/run/systemd/resolve/io.systemd.Resolve", "/run/avahi-daemon/socket"):
    with socket.socket(socket.AF_UNIX) as sock:
        print(sock.connect_ex(path))
"""
    script = """
cp -a /etc /run/other-etc && mount --bind /run/other-etc /etc && mkdir -p /run/systemd/resolve
echo nameserver 127.0.0.53 >/run/systemd/resolve/stub-resolv.conf && ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
exec "$@"
"""
    sockets = []
    for path in ("/run/systemd/resolve/io.systemd.Resolve", "/run/avahi-daemon/socket"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        sockets.append(sock := socket.socket(socket.AF_UNIX))
        sock.bind(path)
        sock.listen()
        os.chmod(path, 0o666)
    nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    command = [
        "unshare",
        "--mount",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        "sh",
        *nobody,
        sys.executable,
        "-m",
        "nsbroker",
    ]
    environment = {**os.environ, "NSBROKER_ADDRESS": daemon.address}
    try:
        done = subprocess.run(
            [*command, "via", place.target, "--", sys.executable, "-c", code],
            capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
    finally:
        for sock in sockets:
            sock.close()
        for name in ("systemd", "avahi-daemon", "other-etc"):
            shutil.rmtree(f"/run/{name}")
    if "user namespaces are not allowed here" in done.stderr:
        pytest.skip("users may not create user namespaces here: no name was looked up as the target does")
    assert (done.stdout.split(), done.stderr) == ([ADDRESS, str(errno.ECONNREFUSED), str(errno.ECONNREFUSED)], "")


@pytest.fixture
def hosts(blue: Path) -> Iterator[Path]:
    """The path of the hosts file for the network blue, as `ip netns` has it; removed at the end."""
    if LINUX < (5, 14):
        pytest.skip("this kernel is older than 5.14: no program was run via the broker")
    folder = Path("/etc/netns/blue")
    folder.mkdir(parents=True)
    yield folder / "hosts"
    (folder / "hosts").unlink()
    folder.rmdir()
    folder.parent.rmdir()


@pytest.mark.parametrize("before", [0, 300_000], ids=["short", "long"])
def test_a_named_network_has_the_files_of_ip_netns(daemon: Daemon, hosts: Path, before: int) -> None:
    hosts.write_text(before * "# blocked\n" + "127.0.0.9 special.test\n")
    done = run_command("via", "name:blue", "--", "getent", "hosts", "special.test", address=daemon.address)
    assert (done.stdout.split(), done.stderr) == (["127.0.0.9", "special.test"], "")


def test_a_file_that_is_too_large_is_named_and_the_command_runs(daemon: Daemon, hosts: Path) -> None:
    hosts.touch()
    os.truncate(hosts, 64 * 2**20 + 1)
    done = run_command("via", "name:blue", "--", "stat", "--format=%s", "/etc/hosts", address=daemon.address)
    assert done.stdout == f"{os.stat('/etc/hosts').st_size}\n"
    assert done.stderr.startswith(f"{LINE}nothing can be mounted over /etc/hosts (the file has 67108865 bytes, and 67108864")
    assert done.stderr.count("\n") == 1


def test_a_file_that_can_be_copied_only_in_part_is_named_and_the_command_runs(
    daemon: Daemon, hosts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))

    hosts.write_bytes(b"#" * 10000)
    done = via.run(
        ["stat", "--format=%s", "/etc/hosts"], "name:blue", address=daemon.address, preexec_fn=limit, capture_output=True, text=True
    )
    assert done.stdout == f"{os.stat('/etc/hosts').st_size}\n"
    reason = "nothing can be mounted over /etc/hosts (10000 bytes cannot be kept in memory: File too large)"
    assert capfd.readouterr().err == f"{LINE}{reason}\n"


async def test_with_trio_too(daemon: Daemon, place: Place) -> None:
    async with nsbroker.via.trio.open_process(
        ["getent", "hosts", "file"], place.target, address=daemon.address, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"".join([piece async for piece in process.stdout]).split() == [ADDRESS.encode(), b"file.test", b"file"]
