"""What a process of the server occupies, as the kernel counts it; for scripts that watch a server under load."""

import os
from pathlib import Path

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int | None:
    """Of a process; None where there is none of this number."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):  # the second where it ends between opening and reading
        return None


def num_descriptors(pid: int) -> int:
    """Open files of a process; raises `OSError` where there is none of this number."""
    return len(os.listdir(f"/proc/{pid}/fd"))
