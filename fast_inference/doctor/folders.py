"""Whether a folder can be used, without making it: by a folder in the nearest one that is there, which goes at once.

Bits of permission alone do not tell: a file system may be read-only, or take no files at all, as /proc.
"""

import os
import tempfile
from pathlib import Path


def why_not_writable(folder: Path) -> str:
    """Why this process cannot make files in a folder, or the folder itself; empty where it can."""
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    except OSError as error:
        return str(error.strerror)
    if not nearest.is_dir():
        return f"{nearest} is no folder"
    try:
        os.rmdir(tempfile.mkdtemp(prefix=".fast-inference-", dir=nearest))
    except OSError as error:
        return f"{nearest} is not writable ({error.strerror})"
    return ""
