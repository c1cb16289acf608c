"""Say which namespaces two processes share.

    python3 examples/compare.py 4711 4712

For processes that are not yours, run a broker that allows it, and use `nsbroker.connect().open_all("pid:4711")` instead.
"""

import sys

import nsbroker


def main() -> None:
    """Compare type by type: handles are equal when they are of the same namespace."""
    left, right = map(int, sys.argv[1:3])
    for kind in nsbroker.NamespaceType:
        with nsbroker.Namespace.from_pid(left, kind) as one, nsbroker.Namespace.from_pid(right, kind) as other:
            print(f"{kind:7} {'shared' if one == other else 'apart '}  {one}" + ("" if one == other else f"  {other}"))


if __name__ == "__main__":
    main()
