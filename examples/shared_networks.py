"""Print which containers share a network, from a process without any privilege.

python3 examples/shared_networks.py

With a thousand containers, this takes a few dozen round trips to the broker instead of a thousand, because many calls are under
way at once.
"""

import sys

import nsbroker


def networks(broker: nsbroker.Broker, targets: list[str]) -> dict[nsbroker.NamespaceId, list[str]]:
    """Return the targets in each network namespace.  Prints the error of a target that cannot be opened."""
    found: dict[nsbroker.NamespaceId, list[str]] = {}
    with broker.open_many(targets, ["net"]) as opened:
        for target, outcome in opened:
            if isinstance(outcome, nsbroker.NsbrokerError):
                print(f"# {outcome}")
                continue
            for ns in outcome.values():
                with ns:
                    found.setdefault(ns.id, []).append(str(target))
    return found


def main(*arguments: str) -> int:
    """Ask the broker for the containers, open the network of each, print them by network, and return the exit code."""
    if arguments:
        print("usage: python3 examples/shared_networks.py (it has no arguments)", file=sys.stderr)
        return 2
    try:
        with nsbroker.connect() as broker:
            containers, unavailable = broker.containers()
            for engine in unavailable:
                print(f"# {engine.engine}: {engine.reason}")
            for network, targets in networks(broker, [f"{one.engine}:{(one.names or [one.id])[0]}" for one in containers]).items():
                print(network, *targets)
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
