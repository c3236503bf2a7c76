"""What is in flight of a job, beside its output file, so that the next run goes on in the middle of answers.

The file is written anew a few times a second, in one step, and removed when the job is complete. It only saves work:
one that is missing, damaged or of other requests changes no answer. Next: `frontend/beginning.py`.
"""

import os
from array import array
from collections.abc import Mapping
from pathlib import Path

import msgpack

from frontend.beginning import Beginning
from ipc.errors import ConfigError

_VERSION = 1
_Entries = dict[str, tuple[bytes, int, bytes]]


class Checkpoint:
    """The file of one job."""

    def __init__(self, output_path: Path) -> None:
        self._path = output_path.with_name(f"{output_path.name}.inflight")
        self._saved: _Entries = {}

    def load(self) -> dict[str, Beginning]:
        """The beginnings by `custom_id`; none where there is no file that can be read."""
        try:
            version, entries = msgpack.unpackb(self._path.read_bytes())
            if version != _VERSION:
                return {}
            return {
                str(custom_id): Beginning(bytes(digest), int(seed), array("i", token_ids))
                for custom_id, (digest, seed, token_ids) in entries.items()
            }
        except (OSError, ValueError, TypeError, AttributeError, msgpack.UnpackException):
            return {}

    def save(self, beginnings: Mapping[str, Beginning]) -> None:
        """Keep these and no others.

        Raises:
            ConfigError: the file cannot be written.
        """
        entries: _Entries = {
            custom_id: (beginning.digest, beginning.seed, array("i", beginning.token_ids).tobytes())
            for custom_id, beginning in beginnings.items()
        }
        if entries == self._saved:
            return
        temporary = self._path.with_name(f"{self._path.name}.tmp")
        try:
            temporary.write_bytes(msgpack.packb((_VERSION, entries)))
            os.replace(temporary, self._path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise ConfigError(f"cannot write {self._path}: {error.strerror}") from error
        self._saved = entries

    def remove(self) -> None:
        """The job is complete."""
        self._path.unlink(missing_ok=True)
