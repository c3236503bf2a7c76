"""The routing policies that a simulation compares; `ours` is the very class that frontends use.

Each simulated frontend makes its own (`make_policy`), as each real one does. Invariant: a policy sees nothing but what
`ipc.placement` gives it, and draws from nothing but its seed.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b

from frontend.engine_router import EngineRouter
from ipc.messages import Add
from ipc.placement import CoreView, Placement

PREFIX_HASH_TOKENS = 256
"""Of the beginning of a prompt, that `PrefixHash` looks at, as the HTTP routers of that name do."""
_MAX_REMEMBERED_KEYS = 100_000


class RoundRobin:
    """One core after the other."""

    def __init__(self, seed: int) -> None:
        self._next = seed

    def choose(self, add: Add, cores: Sequence[CoreView]) -> int:
        """The next one."""
        self._next += 1
        return self._next % len(cores)

    def on_cores_changed(self, names: Sequence[str]) -> None:
        """Nothing is remembered."""


class LeastLoaded:
    """The core with the fewest requests; of equal ones the next in turn, so that not all frontends choose the first."""

    def __init__(self, seed: int) -> None:
        self._next = seed

    def choose(self, add: Add, cores: Sequence[CoreView]) -> int:
        """The one with the fewest."""
        self._next += 1
        first = self._next % len(cores)
        loads = [core.load.num_running + core.load.num_waiting + core.num_sent_since for core in cores]
        fewest = min(loads)
        try:
            return loads.index(fewest, first)
        except ValueError:
            return loads.index(fewest)

    def on_cores_changed(self, names: Sequence[str]) -> None:
        """Nothing is remembered."""


class PrefixHash:
    """Rendezvous hashing over the beginning of the prompt, whatever the load."""

    def __init__(self) -> None:
        self._seeds: dict[str, int] = {}
        self._names: dict[bytes, str] = {}
        self._indices: dict[str, int] = {}

    def choose(self, add: Add, cores: Sequence[CoreView]) -> int:
        """The core with the highest weight for this beginning."""
        key = add.prompt_token_ids[:PREFIX_HASH_TOKENS].tobytes()
        name = self._names.get(key)
        if name is None:
            number = int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
            name = max(cores, key=lambda core: _weight(self._seed(core.name), number)).name
            if len(self._names) >= _MAX_REMEMBERED_KEYS:
                self._names.clear()
            self._names[key] = name
        index = self._indices.get(name, -1)
        if not (0 <= index < len(cores) and cores[index].name == name):
            self._indices = {core.name: index for index, core in enumerate(cores)}
            index = self._indices[name]
        return index

    def on_cores_changed(self, names: Sequence[str]) -> None:
        """Every beginning is looked at anew."""
        self._names.clear()

    def _seed(self, name: str) -> int:
        seed = self._seeds.get(name)
        if seed is None:
            seed = self._seeds[name] = int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), "little")
        return seed


def _weight(seed: int, number: int) -> int:
    """A mix of both numbers (Murmur3's finalizer)."""
    value = (seed ^ number) & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 33) * 0xFF51AFD7ED558CCD & 0xFFFFFFFFFFFFFFFF
    value = (value ^ value >> 33) * 0xC4CEB9FE1A85EC53 & 0xFFFFFFFFFFFFFFFF
    return value ^ value >> 33


MAKERS: Mapping[str, Callable[[int, int], Placement]] = {
    "ours": lambda seed, block_size: EngineRouter(block_size),
    "round-robin": lambda seed, block_size: RoundRobin(seed),
    "least-loaded": lambda seed, block_size: LeastLoaded(seed),
    "prefix-hash": lambda seed, block_size: PrefixHash(),
}
"""By name: the policy of one frontend, from a seed of its own and the tokens of a KV cache block."""
