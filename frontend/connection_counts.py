"""How many connections each frontend has, in a file that all of them map: what `acceptor.py` goes by.

One u32 per frontend in the run dir, written only by its owner; a reader may see a value that is a moment old. A wrong
or stale count (of a frontend that was killed) can cost a connection a few milliseconds, never its acceptance.
"""

import mmap
import struct
from pathlib import Path

_COUNT = struct.Struct("<I")


class ConnectionCounts:
    """This frontend's count, and a view of the others'."""

    def __init__(self, file_path: Path, index: int, num_frontends: int, *, shares_port: bool = True) -> None:
        """Where no port is shared, no connection could go to another frontend."""
        self._index = index
        self._shares_port = shares_port
        self._num_frontends = num_frontends
        size = _COUNT.size * num_frontends
        with file_path.open("a+b") as file:
            file.truncate(max(size, file.seek(0, 2)))
            self._map = mmap.mmap(file.fileno(), size)
        self.publish(0)

    def publish(self, count: int) -> None:
        """Tell the others how many connections this frontend has."""
        _COUNT.pack_into(self._map, self._index * _COUNT.size, count)

    def is_above_another(self, count: int) -> bool:
        """True if another frontend, which could take the next connection, has fewer than `count`."""
        if not self._shares_port:
            return False
        others = (index for index in range(self._num_frontends) if index != self._index)
        return any(_COUNT.unpack_from(self._map, index * _COUNT.size)[0] < count for index in others)
