"""Real programs run unmodified, as nobody, in a network of root's."""

import subprocess
import sys

import pytest

from tests.snapshot import Snapshot
from tests.via.conftest import ADDRESS, PAGE, Network, need
from tests.world import ALICE, PATIENCE, eventually

pytestmark = pytest.mark.root

SERVER = """
import socket
with socket.create_server(("127.0.0.1", 0)) as listener:
    print(listener.getsockname()[1], flush=True)
    sock, _ = listener.accept()
    sock.sendall(b"from via")
    sock.close()
"""
ASYNCIO = """
import asyncio, sys
async def fetch(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\\r\\n\\r\\n")
    text = await reader.read()
    writer.close()
    await writer.wait_closed()
    return text.endswith(b"from inside\\n")
async def main(port):
    return await asyncio.gather(*(fetch(port) for _ in range(20)))
print(asyncio.run(main(int(sys.argv[1]))).count(True))
"""
TRIO = """
import sys, trio
fetched = []
async def fetch(port):
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(b"GET / HTTP/1.0\\r\\n\\r\\n")
        fetched.append((b"".join([piece async for piece in stream])).endswith(b"from inside\\n"))
async def main(port):
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(fetch, port)
trio.run(main, int(sys.argv[1]))
print(fetched.count(True))
"""
REQUESTS = "import sys, requests; sys.stdout.write(requests.get(sys.argv[1], timeout=20).text)"
URLLIB = "import sys, urllib.request; sys.stdout.write(urllib.request.urlopen(sys.argv[1]).read().decode())"


def succeed(done: "subprocess.CompletedProcess[str]") -> str:
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ["curl", "-sS", "URL"],
        ["wget", "-qO-", "URL"],
        ["busybox", "wget", "-qO-", "URL"],  # Debian's busybox-static: statically linked
        ["node", "-e", "fetch(process.argv[1]).then(reply => reply.text()).then(text => process.stdout.write(text))", "URL"],
        [sys.executable, "-c", URLLIB, "URL"],
        [sys.executable, "-c", REQUESTS, "URL"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_it_fetches_a_page_from_the_loopback_inside(network: Network, command: list[str]) -> None:
    need(command[0])
    command = [network.url if word == "URL" else word for word in command]
    assert succeed(network.via(*command)).encode() == PAGE


@pytest.mark.parametrize("program", [ASYNCIO, TRIO], ids=["asyncio", "trio"])
def test_python_with_an_event_loop(network: Network, program: str) -> None:
    assert succeed(network.via(sys.executable, "-c", program, str(network.port))) == "20\n"


def test_ip_and_ss_see_the_network_inside(network: Network) -> None:
    assert f"inet {ADDRESS}/32" in succeed(network.via("ip", "addr"))
    assert f"127.0.0.1:{network.port}" in succeed(network.via("ss", "-tln"))


def test_ping_reaches_an_address_that_exists_only_inside(network: Network) -> None:
    need("ping")
    subprocess.run(
        ["ip", "netns", "exec", "blue", "sh", "-c", "echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range"], check=True
    )
    assert "1 received" in network.via("ping", "-c1", "-W5", ADDRESS).stdout


def test_tcpdump_captures_the_packets_inside(network: Network) -> None:
    need("tcpdump")
    with network.start("tcpdump", "-ni", "lo", "-c1", "tcp") as capture:
        errors = capture.stderr
        assert errors
        eventually(lambda: b"listening on lo" in errors.readline(), "tcpdump listens")
        assert succeed(network.via("curl", "-sS", network.url)).encode() == PAGE
        output, _ = capture.communicate(timeout=PATIENCE)
    assert b"127.0.0.1" in output


def test_a_hundred_children_at_once(network: Network) -> None:
    need("busybox")
    script = f"for i in $(seq 100); do busybox wget -qO- {network.url} & done; wait"
    assert succeed(network.via("sh", "-c", script)).encode() == 100 * PAGE


def test_a_server_is_reached_from_inside_and_not_from_outside(network: Network) -> None:
    with network.start(sys.executable, "-c", SERVER) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        outside = "import socket, sys; socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
        refused = subprocess.run([sys.executable, "-c", outside, str(port)], capture_output=True, text=True, check=False)
        assert "ConnectionRefusedError" in refused.stderr
        connect = "import socket, sys; print(socket.create_connection(('127.0.0.1', int(sys.argv[1]))).recv(100))"
        assert succeed(network.via(sys.executable, "-c", connect, str(port))) == "b'from via'\n"
        assert server.wait(PATIENCE) == 0


def test_a_server_outside_is_not_reached(network: Network) -> None:
    with subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout
        port = int(server.stdout.readline())
        done = network.via("curl", "-sS", f"http://127.0.0.1:{port}/")
        assert (done.returncode, done.stdout) == (7, "")
        server.kill()


def test_what_the_policy_refuses_is_one_line_for_each_kind_and_eacces_to_the_program(network: Network) -> None:
    code = """
import socket
for family, kind in [(socket.AF_INET, socket.SOCK_STREAM)] * 3 + [(socket.AF_INET6, socket.SOCK_DGRAM)] * 2:
    try:
        socket.socket(family, kind)
    except OSError as error:
        print(error.strerror)
"""
    done = network.via(sys.executable, "-c", code, uid=ALICE)
    assert done.stdout == 5 * "Permission denied\n"
    lines = done.stderr.splitlines()
    assert [line.split(" in ")[0] for line in lines] == [
        "nsbroker: open a socket inet:stream",
        "nsbroker: open a socket inet6:dgram",
    ]
    assert all("no rule of the broker's policy" in line for line in lines)


@pytest.mark.parametrize("prefix", [["tests/as-linux", "5.15"], ["tests/as-linux", "6.8"]], ids=["Linux 5.15", "Linux 6.8"])
def test_it_works_as_on_older_kernels(network: Network, prefix: list[str]) -> None:
    command = [*prefix, "setpriv", "--reuid=65534", "--clear-groups", sys.executable, "-m", "nsbroker", "via", "name:blue", "--"]
    environment = {"NSBROKER_ADDRESS": network.daemon.address, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
    for program in (["curl", "-sS", network.url], ["unshare", "--map-root-user", "--net", "ip", "-br", "link"]):
        done = subprocess.run([*command, *program], capture_output=True, text=True, env=environment, check=False)
        outside = program[0] == "unshare"
        assert succeed(done).split()[0:2] == (["lo", "DOWN"] if outside else ["from", "inside"])


def test_the_program_alone_has_the_socket(network: Network) -> None:
    """Nothing stands between the program and the network: no bytes pass through the supervisor or the broker."""
    code = f"""
import os, socket, sys
sock = socket.create_connection(("127.0.0.1", {network.port}))
print(os.readlink(f"/proc/self/fd/{{sock.fileno()}}"), flush=True)
sys.stdin.read()
"""
    with network.start(sys.executable, "-c", code) as process:
        assert process.stdout
        link = process.stdout.readline().strip().decode()
        eventually(lambda: link not in links(process.pid), "the supervisor has closed the socket")
        eventually(lambda: link not in links(network.daemon.pid), "the broker has closed the socket")
        process.communicate(b"", timeout=PATIENCE)


def links(pid: int) -> list[str]:
    """Return what the descriptors of a process refer to."""
    return [path for _, path in Snapshot.of(pid).fds]
