"""The cgroups of this process, of which each can limit what it gets of memory (`device.py`) and CPUs (`cpus.py`)."""

from pathlib import Path


def cgroup_folders(controller: str, proc: Path, cgroup: Path) -> list[tuple[Path, int]]:
    """Folder and version, 2 or 1, of this process's cgroup of a controller and of all above it.

    A folder may not be there, or lack the controller's files: a container sees no cgroup above its own.
    """
    try:
        lines = (proc / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, version = cgroup, 2
        elif controller in controllers.split(","):
            root, version = cgroup / controller, 1
        else:
            continue
        relative = Path(path.lstrip("/"))
        found += [(root / folder, version) for folder in (relative, *relative.parents)]
    return found


def read_words(path: Path) -> list[str]:
    """The words of a file; none where there is no such file."""
    try:
        return path.read_text().split()
    except OSError:
        return []
