"""`python -m nsbroker`: the command."""

import sys

from nsbroker.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
