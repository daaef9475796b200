"""``python -m sksubtomo``."""

import sys


def _main() -> int:
    # The import takes seconds, in which one may think better of it.
    try:
        from sksubtomo.cli import main

        return main()
    except KeyboardInterrupt:
        print("sksubtomo: interrupted.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(_main())
