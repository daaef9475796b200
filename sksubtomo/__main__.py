"""``python -m sksubtomo``."""

import sys

from sksubtomo.cli import main

if __name__ == "__main__":
    sys.exit(main())
