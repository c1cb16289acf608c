"""Show which namespaces two processes share.

    python3 examples/compare.py 4711 4712

This works for your own processes.  For others, ask a broker that allows it: `nsbroker.connect().open_all("pid:4711")`.
"""

import sys

import nsbroker


def compare(left: int, right: int) -> None:
    """Compare each type: two handles are equal if they refer to the same namespace."""
    for ns_type in nsbroker.NamespaceType:
        with nsbroker.Namespace.from_pid(left, ns_type) as one, nsbroker.Namespace.from_pid(right, ns_type) as other:
            print(f"{ns_type:7} {'shared' if one == other else 'apart '}  {one}" + ("" if one == other else f"  {other}"))


def main(*arguments: str) -> int:
    """Compare the two processes, and return the exit code."""
    try:
        left, right = map(int, arguments)
    except ValueError:
        print("usage: python3 examples/compare.py PID PID", file=sys.stderr)
        return 2
    try:
        compare(left, right)
    except nsbroker.NsbrokerError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, nsbroker.errors.InvalidTarget) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
