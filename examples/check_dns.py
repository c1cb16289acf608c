"""Check whether each container can resolve a host name: ask each name server of its own resolv.conf, over sockets made inside.

python3 examples/check_dns.py example.org.

This takes dnspython (the extra `dns` of nsbroker), and a rule with namespaces = ["net"], which shows the containers,
files = ["resolv.conf"] and sockets = ["inet:dgram", "inet6:dgram"].  The exit code is 1 if a server did not know the name.
"""

import io
import socket
import sys
from collections.abc import Iterator
from typing import NamedTuple

import nsbroker

try:
    import dns.exception
    import dns.message
    import dns.name
    import dns.query
    import dns.rcode
    import dns.rdatatype
    import dns.resolver
except ImportError:
    sys.exit("dnspython, which asks the name servers, is not installed: run pip install '.[dns]' in a checkout of nsbroker")

PORT = 53
TIMEOUT = 2.0


class Check(NamedTuple):
    """What one server answered: addresses, or why there are none."""

    container: str
    server: str
    addresses: list[str]
    reason: str


def name_servers(broker: nsbroker.Broker, target: str) -> list[str]:
    """Return the addresses of the servers in the target's resolv.conf.  Raises NsbrokerError, DNSException."""
    with broker.file(target, "resolv.conf") as file:
        text = file.read().decode(errors="replace")
    resolver = dns.resolver.Resolver(configure=False)
    resolver.read_resolv_conf(io.StringIO(text))
    return [str(server) for server in resolver.nameservers]


def ask(broker: nsbroker.Broker, target: str, server: str, name: str) -> list[str]:
    """Return the addresses that the server knows for the name.  Raises NsbrokerError, DNSException, OSError."""
    found = []
    for kind in ("A", "AAAA"):
        family = socket.AF_INET6 if ":" in server else socket.AF_INET
        with broker.socket(target, family, socket.SOCK_DGRAM) as sock:
            # If nothing listens there, a connected socket reports this at once.
            sock.connect((server, PORT))
            sock.setblocking(False)
            answer = dns.query.udp(dns.message.make_query(name, kind), server, TIMEOUT, PORT, sock=sock)
        if answer.rcode() != dns.rcode.NOERROR:
            raise nsbroker.errors.LookupFailed(f"the server answered {dns.rcode.to_text(answer.rcode())}")
        found += [item.to_text() for items in answer.answer for item in items if dns.rdatatype.to_text(items.rdtype) == kind]
    return found


def check_container(broker: nsbroker.Broker, target: str, container: str, name: str) -> Iterator[Check]:
    """Yield a result for each server of the container, or one that says why there is none."""
    try:
        servers = name_servers(broker, target)
    except (nsbroker.NsbrokerError, dns.exception.DNSException) as error:
        yield Check(container, "-", [], f"its resolv.conf: {error}")
        return
    for server in servers:
        try:
            addresses = ask(broker, target, server, name)
        except (nsbroker.NsbrokerError, dns.exception.DNSException, OSError) as error:
            yield Check(container, server, [], getattr(error, "strerror", None) or str(error))
        else:
            yield Check(container, server, addresses, "" if addresses else "the name has no address")


def main(name: str = "", *others: str) -> int:
    """Check all containers, print a line for each server, and return the exit code."""
    if not name or others or not is_host_name(name):
        print("usage: python3 examples/check_dns.py NAME, such as example.org.", file=sys.stderr)
        return 2
    failed = False
    try:
        with nsbroker.connect() as broker:
            containers, unavailable = broker.containers()
            for engine in unavailable:
                print(f"{engine.engine}: {engine.reason}", file=sys.stderr)
            print(f"{'CONTAINER':<30}{'SERVER':<24}ANSWER")
            for container in containers:
                label = f"{container.engine}:{(container.names or [container.id])[0]}"
                for check in check_container(broker, f"{container.engine}:{container.id}", label, name):
                    print(f"{check.container:<30}{check.server:<24}{' '.join(check.addresses) or check.reason}")
                    failed = failed or not check.addresses
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 1
    return 1 if failed else 0


def is_host_name(text: str) -> bool:
    """Return whether `text` can be asked for."""
    try:
        dns.name.from_text(text)
    except (dns.exception.DNSException, UnicodeError):
        return False
    return True


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
