#!/usr/bin/env python3
"""The launch script: the same as `fast-inference serve`, with the same arguments; see `fast_inference/cli.py`.

Runs from any folder with the interpreter of an environment that has the dependencies (`scripts/install` makes one).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))
