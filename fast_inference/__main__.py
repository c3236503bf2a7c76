"""`python -m fast_inference` is the same as the command `fast-inference`; see `cli.py`."""

import sys

from fast_inference.cli import main

if __name__ == "__main__":
    sys.exit(main())
