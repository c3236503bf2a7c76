"""The folder that outlives a server: the database of files and batches, what was uploaded, and the files of jobs.

    batches.sqlite   store.py
    files/FILE_ID    content of each file
    jobs/BATCH_ID/   input (a second name of its file), output and errors of a batch that has not ended
    uploads/         what is being received

Made by the launcher, which holds its lock, so that two servers never share one. Invariant: a name in `files` is there
only with its whole content on the disk.
"""

import fcntl
import os
import shutil
import stat
from collections.abc import Collection
from pathlib import Path

from ipc.errors import ConfigError

_RESERVE_BYTES = 256 * 1024


class StateDir:
    """The names in it, and what is done to them as one step."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._files, self._jobs, self._uploads = self.path / "files", self.path / "jobs", self.path / "uploads"

    @classmethod
    def default(cls, port: int) -> "StateDir":
        """`$XDG_STATE_HOME/fast-inference/PORT`, or the same in `~/.local/state`.

        Raises:
            ConfigError: this user has no home.
        """
        home = os.environ.get("XDG_STATE_HOME")
        try:
            base = Path(home) if home and Path(home).is_absolute() else Path.home() / ".local" / "state"
        except RuntimeError as error:
            raise ConfigError(f"no folder for the state of batches: {error}") from error
        return cls(base / "fast-inference" / str(port))

    @property
    def database(self) -> Path:
        """There from the first use on."""
        return self.path / "batches.sqlite"

    def file(self, file_id: str) -> Path:
        """Content of a file."""
        return self._files / file_id

    def job(self, batch_id: str) -> Path:
        """Folder of a batch."""
        return self._jobs / batch_id

    def create(self) -> None:
        """Make it with mode 0700, or take one that is there.

        Raises:
            ConfigError: it cannot be made or written to, others may write to it, or it holds files that are not ours.
        """
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = self.path.stat()
            if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise ConfigError(f"state dir {self.path} is not of this user alone (chmod 700, or use --state-dir)")
            if not self._files.exists() and any(self.path.iterdir()):
                raise ConfigError(f"state dir {self.path} holds files that are not of an earlier server (use another)")
            for folder in (self._files, self._jobs, self._uploads):
                folder.mkdir(mode=0o700, exist_ok=True)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise ConfigError(f"state dir {self.path} cannot be written to (use another)")
            for folder in (self.path, self.path.parent):
                sync_folder(folder)
        except OSError as error:
            raise ConfigError(f"cannot make state dir {self.path}: {error.strerror} (use --state-dir)") from error

    def lock(self, name: str) -> int:
        """Be the only `name` on this folder for the life of the process; returns the descriptor that holds the lock.

        Raises:
            ConfigError: another one is, or the file cannot be made.
        """
        try:
            descriptor = os.open(
                self.path / f"{name.replace(' ', '-')}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise ConfigError(f"cannot lock state dir {self.path}: {error.strerror}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            raise ConfigError(f"another {name} uses state dir {self.path}") from error
        return descriptor

    # --- what happens in it ---

    def new_upload(self, name: str) -> Path:
        """Where content is written before it has a name in `files`."""
        return self._uploads / name

    def publish(self, path: Path, file_id: str) -> None:
        """Give written and synced content its name; raises OSError."""
        os.rename(path, self.file(file_id))
        sync_folder(self._files)

    def remove_file(self, file_id: str) -> None:
        """Remove content, if it is there; a batch that has it as its input keeps it."""
        self.file(file_id).unlink(missing_ok=True)

    def begin_job(self, batch_id: str, input_file_id: str) -> None:
        """Make the folder of a batch, with a second name of its input and what it will write; raises OSError."""
        folder = self.job(batch_id)
        folder.mkdir(mode=0o700)
        os.link(self.file(input_file_id), folder / "input.jsonl")
        for name in ("output.jsonl", "errors.jsonl"):
            (folder / name).touch(mode=0o600)
        sync_folder(folder)
        sync_folder(self._jobs)

    def remove_job(self, batch_id: str) -> None:
        """Remove the folder of a batch."""
        shutil.rmtree(self.job(batch_id), ignore_errors=True)

    def remove_strays(self, file_ids: Collection[str], batch_ids: Collection[str]) -> None:
        """Remove what processes that were killed have left: content without a file, folders without a batch.

        Only the launcher may call it, while no frontend runs.
        """
        for path in self._uploads.iterdir():
            path.unlink(missing_ok=True)
        for path in self._files.iterdir():
            if path.name not in file_ids:
                path.unlink(missing_ok=True)
        for path in self._jobs.iterdir():
            if path.name not in batch_ids:
                self.remove_job(path.name)

    # --- a disk that is full ---

    def take_reserve(self) -> None:
        """Keep some room, as long as there is any, in which a full disk can be told of."""
        try:
            with open(self.path / "reserve", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, _RESERVE_BYTES)
        except OSError:
            return  # then there is none

    def give_reserve(self) -> None:
        """Give that room to whoever writes next."""
        (self.path / "reserve").unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Have the names in a folder on the disk; raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
