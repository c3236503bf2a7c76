#!/usr/bin/env python3
"""The batch runner: the same as `fast-inference run-batch`, with the same arguments; see `docs/batch.md`.

Runs from any folder with the interpreter of an environment that has the dependencies (`scripts/install` makes one).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fast_inference.cli import main

if __name__ == "__main__":
    sys.exit(main(["run-batch", *sys.argv[1:]]))
