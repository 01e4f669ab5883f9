"""python -m bench: the same as python -m fastsce bench."""

import sys

from bench.command import main

if __name__ == "__main__":
    sys.exit(main())
