"""The command `fast-inference keys`: makes the keys for `--core-endpoint`."""

import argparse
from pathlib import Path

from fast_inference.flags import FlagParser

_EXAMPLES = """\
examples:
  fast-inference keys /etc/fast-inference/curve --client batch-host
  fast-inference serve --core-endpoint tcp://10.0.0.5:5555 --curve-dir /etc/fast-inference/curve
"""


def add_keys(commands: "argparse._SubParsersAction[FlagParser]") -> None:
    """Add the command."""
    parser = commands.add_parser(
        "keys",
        help="make keys for clients of other hosts (--core-endpoint)",
        description="Make the core's key pair and that of a client in DIR, as far as they are missing, and print what "
        "was made. A client needs server.key and its own clients/NAME.key_secret in a folder of its own.",
        epilog=_EXAMPLES,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="folder for --curve-dir, made if missing")
    parser.add_argument("--client", metavar="NAME", default="client", help="name of the client (default: client)")

    def run(namespace: argparse.Namespace) -> int:
        from ipc.curve import CurveDir

        for path in CurveDir(namespace.folder).make(namespace.client):
            print(path)
        return 0

    parser.set_defaults(run=run)
