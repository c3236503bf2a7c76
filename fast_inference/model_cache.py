"""The folder of the model cache: locks that let concurrent calls share one download, and scratch space for it.

Used by `model_store.py` and `model_conversions.py`. Models lie in `$XDG_CACHE_HOME/fast-inference/models/NAME/`, beside
`.NAME.lock` and, while one is made, its scratch folder `.pull-NAME`.
Invariant: a scratch folder belongs to the holder of the lock of the same name, so that one without a holder is stale.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ipc.errors import ConfigError
from ipc.tokenizer_files import cache_root

_SCRATCH_PREFIX = ".pull-"
_STALE_AFTER_S = 24 * 3600.0
"""Age at which scratch that no lock belongs to is removed."""


class Progress(Protocol):
    """Told of each stage; `fraction` is None where the end is not known."""

    def __call__(self, stage: str, fraction: float | None) -> None:
        """Take notice."""


def models_dir() -> Path:
    """Where the models lie."""
    return cache_root() / "models"


@contextlib.contextmanager
def exclusive(target: Path, progress: Progress) -> Iterator[None]:
    """Hold the lock of one cached model, waiting for it if need be; the kernel frees it when the process dies.

    Raises:
        ConfigError: the cache cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(_lock_file(target.parent, target.name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot write the model cache {target.parent}: {error.strerror}") from error
    try:
        if not _try_lock(descriptor):
            progress(f"waiting for another process that gets {target.name}", None)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def scratch_dir(target: Path) -> Iterator[Path]:
    """A folder on the cache's own file system, whose content can be renamed into place; for the holder of the lock."""
    _remove_stale_scratch(target.parent)
    path = target.parent / f"{_SCRATCH_PREFIX}{target.name}"
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)  # of a holder that was killed
    path.mkdir(mode=0o700)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """Put a folder that was made in scratch in its place; what is there is not whole. For the holder of the lock."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(target)
    source.rename(target)


def _remove_stale_scratch(folder: Path) -> None:
    """Remove what killed processes left: scratch whose lock is free, or that has none and is a day old."""
    for path in folder.glob(f"{_SCRATCH_PREFIX}*"):
        with contextlib.suppress(OSError):  # somebody else removes it too
            try:
                descriptor = os.open(_lock_file(folder, path.name.removeprefix(_SCRATCH_PREFIX)), os.O_RDWR)
            except FileNotFoundError:
                if time.time() - path.stat().st_mtime > _STALE_AFTER_S:
                    shutil.rmtree(path)
                continue
            try:
                if _try_lock(descriptor):
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _lock_file(folder: Path, name: str) -> Path:
    return folder / f".{name}.lock"


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
