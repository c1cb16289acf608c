"""The names of the files of a target that the broker opens: a closed list."""

CONFIGURATION = ("resolv.conf", "hosts")
"""The files in /etc of the target with which it looks names up: see resolv.conf(5) and hosts(5)."""

NETWORK = (
    "net/dev",
    "net/snmp",
    "net/snmp6",
    "net/netstat",
    "net/sockstat",
    "net/sockstat6",
    "net/tcp",
    "net/tcp6",
    "net/udp",
    "net/udp6",
    "net/unix",
    "net/route",
    "net/ipv6_route",
    "net/arp",
    "net/if_inet6",
)
"""The files in /proc of the target's network, below /proc/PID: see proc_pid_net(5)."""

NAMES = (*CONFIGURATION, *NETWORK)
