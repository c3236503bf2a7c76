"""Whether a folder can be used, without making it."""

import os
from pathlib import Path


def why_not_writable(folder: Path) -> str:
    """Why this process cannot make files in a folder, or the folder itself; empty where it can."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    except OSError as error:
        return str(error.strerror)
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    if not os.access(nearest, os.W_OK | os.X_OK):
        return f"{nearest} is not writable"
    return ""
