"""Models of the Hugging Face hub: the hub's own cache first, the network only for what is not there.

Called by `model_store.py`. Next: `hub_download.py`, which runs in a process of its own.
"""

import contextlib
import subprocess
import sys
from pathlib import Path

from fast_inference.child import child_environment
from fast_inference.hub_download import HUB_PATTERNS
from fast_inference.model_cache import Progress
from fast_inference.model_conversions import last_line
from fast_inference.model_folders import is_whole_folder
from ipc.errors import ConfigError


def hub_snapshot(hub_id: str, progress: Progress) -> Path:
    """The folder of a model "org/name" in the hub's cache, downloaded if it is not there.

    Raises:
        ConfigError: it is not there and cannot be had.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    with contextlib.suppress(LocalEntryNotFoundError):
        cached = Path(snapshot_download(hub_id, allow_patterns=HUB_PATTERNS, local_files_only=True))
        if is_whole_folder(cached):
            return cached
    progress(f"downloading {hub_id}", None)
    command = [sys.executable, "-P", "-m", "fast_inference.hub_download", hub_id]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=child_environment(), check=False)
    answer = last_line(result.stdout)
    if result.returncode != 0:
        raise ConfigError(f"cannot get the model {hub_id!r}: {answer or f'exit {result.returncode}'}")
    folder = Path(answer)
    if not is_whole_folder(folder):
        raise ConfigError(f"no model {hub_id!r}: {folder} lacks config.json or safetensors weights")
    return folder
