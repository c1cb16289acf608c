"""Show which namespaces two processes share.

    python3 examples/compare.py 4711 4712

This works for your own processes.  For others, ask a broker that allows it: `nsbroker.connect().open_all("pid:4711")`.
"""

import sys

import nsbroker


def main() -> None:
    """Compare each type: two handles are equal if they refer to the same namespace."""
    left, right = map(int, sys.argv[1:3])
    for ns_type in nsbroker.NamespaceType:
        with nsbroker.Namespace.from_pid(left, ns_type) as one, nsbroker.Namespace.from_pid(right, ns_type) as other:
            print(f"{ns_type:7} {'shared' if one == other else 'apart '}  {one}" + ("" if one == other else f"  {other}"))


if __name__ == "__main__":
    main()
