"""The numbers of a container's network, as nsenter(1) and cat(1) read them inside, by the names of the metrics."""

import re
import subprocess
from collections import Counter

from nsbroker.linux.sock_diag import STATES

Key = tuple[str, str]
"""A metric, and the value of its label that other metrics lack, or nothing."""
FILES = ("dev", "snmp", "netstat", "sockstat", "sockstat6", "tcp", "tcp6")
_COLUMNS = ("bytes", "packets", "errs", "drop", "", "", "", "")
_COUNTERS = {
    "InSegs": "tcp_received_segments_total",
    "OutSegs": "tcp_sent_segments_total",
    "RetransSegs": "tcp_retransmitted_segments_total",
    "ListenOverflows": "tcp_listen_overflows_total",
    "ListenDrops": "tcp_listen_drops_total",
}


def read(pid: int) -> dict[Key, float]:
    """Return all numbers of the network of the process `pid`."""
    command = ["nsenter", "-t", str(pid), "-n", "tail", "-n", "+1", *(f"/proc/self/net/{name}" for name in FILES)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    # tail writes ==> NAME <== before each file.
    parts = re.split(r"^==> /proc/self/net/(\w+) <==$", text, flags=re.MULTILINE)
    files = dict(zip(parts[1::2], parts[2::2], strict=True))
    found: dict[Key, float] = {}
    for line in files["dev"].strip().splitlines()[2:]:
        name, *values = line.replace(":", " ").split()
        for column, value in zip(_COLUMNS * 2, enumerate(values), strict=True):
            if column:
                found[f"network_{'receive' if value[0] < 8 else 'transmit'}_{column}_total", name] = float(value[1])
    for file, group in (("snmp", "Tcp"), ("netstat", "TcpExt")):
        head, numbers = (line.split() for line in files[file].splitlines() if line.startswith(f"{group}:"))
        for key, number in zip(head, numbers, strict=True):
            if key in _COUNTERS:
                found[_COUNTERS[key], ""] = float(number)
    for file in ("sockstat", "sockstat6"):
        for protocol, number in re.findall(r"^(\w+): inuse (\d+)", files[file], re.MULTILINE):
            if not protocol.startswith(("FRAG", "UDPLITE")):
                found["sockets_in_use", protocol] = float(number)
    used = re.search(r"sockets: used (\d+)", files["sockstat"])
    assert used is not None
    found["sockets_used", ""] = float(used[1])
    lines = [line for file in ("tcp", "tcp6") for line in files[file].strip().splitlines()[1:]]
    states = Counter(STATES[int(line.split()[3], 16) - 1] for line in lines)
    return found | {("tcp_connection_states", state): float(states[state]) for state in STATES}
