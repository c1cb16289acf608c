"""Programs that need more than one command to try: a static Go binary, and a database of PostgreSQL."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.via.conftest import PAGE, Network, need
from tests.world import NOBODY, SLOWNESS

pytestmark = pytest.mark.root

GO = """
package main

import (
    "io"
    "net"
    "os"
)

func main() {
    connection, err := net.Dial("tcp", os.Args[1])
    if err != nil {
        panic(err)
    }
    connection.Write([]byte("GET / HTTP/1.0\\r\\n\\r\\n"))
    io.Copy(os.Stdout, connection)
}
"""


@pytest.mark.timeout(600 * SLOWNESS)
def test_a_static_go_binary(network: Network, tmp_path: Path) -> None:
    """Go makes its system calls itself, without libc, and on many threads."""
    go = need("go")
    folder = Path("/run/go-program")
    folder.mkdir()
    try:
        (folder / "main.go").write_text(GO)
        environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(tmp_path / "cache"), "GO111MODULE": "off", "GOFLAGS": ""}
        subprocess.run([go, "build", "-o", "fetch", "main.go"], cwd=folder, env=environment, check=True)
        done = network.via(str(folder / "fetch"), f"127.0.0.1:{network.port}")
        assert (done.returncode, done.stdout.encode().endswith(PAGE), done.stderr) == (0, True, "")
    finally:
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()


@pytest.fixture
def database(network: Network) -> Iterator[int]:
    """A PostgreSQL server that listens on the loopback of the network blue only.  Yields its port."""
    need("psql")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("the server of PostgreSQL is not installed: psql was not tried")
    folder, port = Path("/run/postgresql-data"), network.port + 1 if network.port < 65535 else network.port - 1
    folder.mkdir()
    os.chown(folder, NOBODY, NOBODY)
    user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    bin_folder, log = found[-1].parent, folder.with_suffix(".log")
    environment = {**os.environ, "LC_ALL": "C", "HOME": "/nonexistent"}
    initdb = [*user, str(bin_folder / "initdb"), "-D", str(folder), "-U", "test", "--auth=trust", "--no-sync", "--locale=C"]
    subprocess.run(initdb, stdout=subprocess.DEVNULL, env=environment, cwd="/", check=True)
    command = ["ip", "netns", "exec", "blue", *user, str(bin_folder / "postgres"), "-D", str(folder), "-p", str(port)]
    command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd="/") as server:
        try:
            while "ready to accept connections" not in log.read_text():
                assert server.poll() is None, log.read_text()
                time.sleep(0.05)
            yield port
        finally:
            server.terminate()
            server.wait()
            subprocess.run(["rm", "-rf", str(folder), str(log)], check=True)


@pytest.mark.timeout(300 * SLOWNESS)
def test_psql_asks_a_database_inside(network: Network, database: int) -> None:
    command = ["psql", "-h", "127.0.0.1", "-p", str(database), "-U", "test", "-d", "postgres", "-Atc"]
    done = network.via(*command, "select 6 * 7, inet_server_addr(), sum(n) from generate_series(1, 100000) n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "42|127.0.0.1|5000050000\n", "")
    assert subprocess.run([*command, "select 1"], capture_output=True, check=False).returncode == 2
