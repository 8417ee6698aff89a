"""`python -m hearken`."""

import sys

from hearken.cli import main

if __name__ == "__main__":
    sys.exit(main())
