"""Downloads a model from the hub into the hub's own cache.

Run as `python -m fast_inference.hub_download ORG/NAME` by `fast_inference/hub_snapshots.py`, in a process of its own so
that a download can be stopped at once: the hub's library waits for its threads. It dies with its parent and leaves
Ctrl-C to it. It prints one line on stdout: the folder, or with exit status 1 what went wrong; its bars go to stderr.
"""

import signal
import sys

from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_USAGE
from ipc.process import die_with_parent

HUB_TIMEOUT_S = 3.0
"""How long the hub may take to answer whether it knows the model."""
HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]


def main(arguments: list[str]) -> int:
    """Entry of `python -m`; returns the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m fast_inference.hub_download ORG/NAME\n")
        return EXIT_USAGE
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        folder = snapshot_download(arguments[0], allow_patterns=HUB_PATTERNS, etag_timeout=HUB_TIMEOUT_S)
    except (OSError, HfHubHTTPError, HFValidationError) as error:  # LocalEntryNotFoundError is an OSError
        reason = str(error).strip().splitlines()
        sys.stdout.write(f"{type(error).__name__}{': ' + reason[0] if reason else ''}\n")
        return EXIT_CONFIG_ERROR
    sys.stdout.write(f"{folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
