"""A key's core, on which all frontends agree without talking to each other: rendezvous hashing.

Each core gives each key a weight, and the key belongs to the heaviest: a core that leaves gives up only its own keys,
and one that comes takes an equal share from all others. Weights hang on the core's name and the key's bucket alone,
so they are drawn once for each core, and finding the heaviest of 64 cores is a look at 64 numbers.
After Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998.
"""

import hashlib
from array import array
from collections.abc import Iterable

NUM_BUCKETS = 4096
"""Keys are moved together with all others of their bucket."""

_BUCKET_SHIFT = 20
_SPREAD = 0x9E3779B1
_MASK_32 = 0xFFFFFFFF


def bucket_of(prefix_hash: int) -> int:
    """The bucket of a 32-bit hash."""
    return (prefix_hash * _SPREAD & _MASK_32) >> _BUCKET_SHIFT


class Rendezvous:
    """The weights of all cores, and the heaviest ones of each bucket that was asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []
        """Sorted: the order in which a client knows its cores means nothing."""
        self._weights: array[int] = array("I")
        """[NUM_BUCKETS, num_cores]"""
        self._first_two: list[tuple[str, str] | None] = []
        self._rankings: dict[int, list[int]] = {}

    def set_cores(self, names: Iterable[str]) -> None:
        """These are the cores from now on."""
        self.names = sorted(set(names))
        num_cores = len(self.names)
        self._weights = weights = array("I", bytes(4 * NUM_BUCKETS * num_cores))
        for index, name in enumerate(self.names):
            weights[index::num_cores] = _weights_of(name)
        self._first_two = [None] * NUM_BUCKETS
        self._rankings = {}

    def first_two(self, bucket: int) -> tuple[str, str]:
        """The bucket's core and the next one (twice the same name where there is only one)."""
        pair = self._first_two[bucket]
        if pair is None:
            first, second = _two_heaviest(self._weights_in(bucket))
            pair = self._first_two[bucket] = (self.names[first], self.names[second])
        return pair

    def two_of_group(self, bucket: int, num_cores: int, member_bucket: int) -> tuple[str, str]:
        """The two of the bucket's first `num_cores` cores that weigh most for another bucket, the heavier first."""
        if num_cores >= len(self.names):
            return self.first_two(member_bucket)
        group = self._ranking(bucket)[:num_cores]
        weights = self._weights_in(member_bucket)
        first, second = _two_heaviest([weights[index] for index in group])
        return self.names[group[first]], self.names[group[second]]

    def _ranking(self, bucket: int) -> list[int]:
        """All cores, the bucket's own first."""
        ranking = self._rankings.get(bucket)
        if ranking is None:
            weights = self._weights_in(bucket)
            ranking = self._rankings[bucket] = sorted(range(len(weights)), key=lambda index: -weights[index])
        return ranking

    def _weights_in(self, bucket: int) -> list[int]:
        num_cores = len(self.names)
        return self._weights[bucket * num_cores : (bucket + 1) * num_cores].tolist()


def _two_heaviest(weights: list[int]) -> tuple[int, int]:
    first = weights.index(max(weights))
    weights[first] = 0
    return first, weights.index(max(weights))


def _weights_of(name: str) -> "array[int]":
    return array("I", hashlib.shake_256(name.encode()).digest(NUM_BUCKETS * 4))
