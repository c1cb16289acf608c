"""`python -m docs.generate FOLDER`: write the source of the documentation into FOLDER, for Sphinx."""

import sys
from pathlib import Path

from docs.generate import pages

if __name__ == "__main__":
    pages.write(Path(sys.argv[1]))
