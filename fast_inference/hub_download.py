"""Downloads a model from the hub into the hub's own cache.

Run as `python -m fast_inference.hub_download ORG/NAME` by `fast_inference/hub_snapshots.py`, in a process of its own so
that a download can be stopped at once: the hub's library waits for its threads. It dies with its parent and leaves
Ctrl-C to it. It prints one line on stdout: the folder, or with exit status 1 what went wrong; its bars go to stderr.
Invariant: weights are asked for only after config.json says that they can be run here.
"""

import signal
import sys
from pathlib import Path

from engine_core.config_values import read_json_object
from engine_core.model_kind import model_path
from ipc.errors import ConfigError
from ipc.exit_codes import EXIT_CONFIG_ERROR, EXIT_USAGE
from ipc.process import die_with_parent

HUB_TIMEOUT_S = 3.0
"""How long the hub may take to answer whether it knows the model."""
HUB_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"]
_MAX_REASON = 200
"""Characters of a message of the hub's library."""


def download(hub_id: str) -> str:
    """The folder of the whole model in the hub's cache.

    Raises:
        ConfigError: it cannot be run here.
        Exception: the hub did not give it; of many kinds, as the library's HTTP client depends on its version.
    """
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)  # the calls below try again for half a minute
    model_path(read_json_object(Path(hf_hub_download(hub_id, "config.json", etag_timeout=HUB_TIMEOUT_S))))
    return snapshot_download(hub_id, allow_patterns=HUB_PATTERNS, etag_timeout=HUB_TIMEOUT_S)


def main(arguments: list[str]) -> int:
    """Entry of `python -m`; returns the exit status."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m fast_inference.hub_download ORG/NAME\n")
        return EXIT_USAGE
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()
    try:
        sys.stdout.write(f"{download(arguments[0])}\n")
    except ConfigError as error:
        sys.stdout.write(f"{error.message}\n")
        return EXIT_CONFIG_ERROR
    except Exception as error:  # noqa: BLE001 - the top of a process: whatever the network does is one line
        sys.stdout.write(f"{_reason(error)}\n")
        return EXIT_CONFIG_ERROR
    return 0


def _reason(error: Exception) -> str:
    """Why the hub gave nothing, for people."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    if isinstance(error, OfflineModeIsEnabled):
        return "it is neither a folder nor in the hub cache, and the hub must not be asked (HF_HUB_OFFLINE)"
    if isinstance(error, GatedRepoError):
        return "the hub gives it only to people who accepted its terms (set HF_TOKEN)"
    if isinstance(error, RepositoryNotFoundError):
        return "the hub knows no such model (for a private one set HF_TOKEN)"
    if isinstance(error, EntryNotFoundError):
        return "on the hub it has no config.json"
    if isinstance(error, HfHubHTTPError | HFValidationError):
        return f"it is neither a folder nor in the hub cache, and the hub says {_line(error)}"
    return f"it is neither a folder nor in the hub cache, and the hub cannot be reached ({_line(error)})"


def _line(error: BaseException) -> str:
    """An error in one line, with its type."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:_MAX_REASON]}" if text else type(error).__name__


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
