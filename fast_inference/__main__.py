"""The command `fast-inference`, and `python -m fast_inference`: what happens before `cli.py` is there.

Importing takes a moment, in which Ctrl-C ends the program as it ends one that is not written in Python, without a
trace; `main` of `cli.py` turns it into KeyboardInterrupt again.
"""

import signal
import sys

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not where it is ignored, as in the background
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from fast_inference.cli import main

if __name__ == "__main__":
    sys.exit(main())
