"""What a frontend remembers of the beginnings of the prompts that it sent: to which core, and how many there were.

A tree whose nodes are found by the hash of the whole beginning (`prefix_path.py`), in one dictionary, least recently
used first. Nodes stand at the depths of `DEPTHS`; where a prompt ends between two depths, a node of its own (an *end*)
is at its last whole block, and the node above has a bit for it: so the next turn of a chat is found exactly.
Invariant: whenever a node is used its ancestors are used after it, so the oldest nodes are leaves, and what a walk
from the root does not reach has been forgotten.
"""

from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

from frontend.routing.divergence import Divergence
from frontend.routing.prefix_path import DEPTHS, PrefixPath

_GROWTH = 1024 / 1023
"""Of the weight of a request over that of the one before it: shares are those of about the last 1,000 requests."""
_LARGEST_WEIGHT = 1e30

_MAX_END_LOOKUPS = 8


class PrefixNode:
    """One beginning."""

    __slots__ = ("core", "divergence", "ends", "mass", "overflow_core")

    def __init__(self, core: str, mass: float) -> None:
        self.core = core
        """The first that was sent it; empty once that one is gone."""
        self.overflow_core = ""
        """The last other one that was sent it."""
        self.mass = mass
        """Sum of the weights of the requests that had it."""
        self.ends = 0
        """Bit i is set where a prompt ended i blocks deeper, before the next depth."""
        self.divergence: Divergence | None = None
        """Where the prompts that have it part; only of those that many have."""


@dataclass(slots=True)
class Match:
    """What is remembered of a prompt."""

    nodes: list[PrefixNode]
    """Of its beginnings, one for each level, as far as they are known."""
    end: PrefixNode | None = None
    """Of an earlier prompt that this one goes on from, below the last of `nodes`."""
    deepest: PrefixNode | None = None
    """The deepest of all these that knows a core."""
    num_blocks: int = 0
    """The depth of what is known; 0 where no core is."""


class PrefixMemory:
    """A bounded number of nodes."""

    def __init__(self, max_nodes: int) -> None:
        self._max_nodes = max_nodes
        self._nodes: OrderedDict[int, PrefixNode] = OrderedDict()
        self._weight = 1.0
        self._total = 0.0

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, prefix_hash: int) -> bool:
        return prefix_hash in self._nodes

    def find(self, path: PrefixPath) -> Match:
        """What is remembered of this prompt; it is counted with all its known beginnings."""
        self._count_request()
        known: list[PrefixNode] = []
        deepest = None
        get_node, weight = self._nodes.get, self._weight
        for prefix_hash in path.hashes:
            node = get_node(prefix_hash)
            if node is None:
                break
            node.mass += weight
            known.append(node)
            if node.core:
                deepest = node
        match = Match(known, deepest=deepest, num_blocks=DEPTHS[len(known) - 1] if deepest is not None else 0)
        if known and known[-1].ends:
            self._find_end(path, match)
        return match

    def num_recent(self, node: PrefixNode) -> float:
        """How many requests had it, of about the last 1,000, the older ones counting less."""
        return node.mass / self._weight

    def share_of(self, node: PrefixNode) -> float:
        """Which part of the same requests that is."""
        return node.mass / self._total

    def remember(self, path: PrefixPath, match: Match, core: str) -> None:
        """This prompt, of which that much was known, went to this core."""
        if not path.hashes:
            return
        if match.deepest is not None and match.deepest.core != core:
            match.deepest.overflow_core = core
        nodes, known, hashes = self._nodes, match.nodes, path.hashes
        last_level = len(hashes) - 1
        num_end_blocks = path.num_blocks - DEPTHS[last_level]
        if last_level + 1 == len(DEPTHS):
            num_end_blocks = 0
        if num_end_blocks:
            self._use(path.hash_between(last_level, path.num_blocks), core)
        for level in range(last_level, -1, -1):
            if level < len(known):
                nodes.move_to_end(hashes[level])
                if not known[level].core:
                    known[level].core = core
            else:
                nodes[hashes[level]] = PrefixNode(core, self._weight)
        if num_end_blocks:
            nodes[hashes[last_level]].ends |= 1 << num_end_blocks
        while len(nodes) > self._max_nodes:
            nodes.popitem(last=False)

    def forget(self, names: Collection[str]) -> None:
        """These cores are gone."""
        for node in self._nodes.values():
            if node.overflow_core in names:
                node.overflow_core = ""
            if node.core in names:
                node.core, node.overflow_core = node.overflow_core, ""

    def _find_end(self, path: PrefixPath, match: Match) -> None:
        level = len(match.nodes) - 1
        num_more = path.num_blocks - DEPTHS[level]
        ends = match.nodes[level].ends & ((2 << num_more) - 1)
        for _ in range(min(ends.bit_count(), _MAX_END_LOOKUPS)):  # the deepest ones
            num_end_blocks = ends.bit_length() - 1
            ends ^= 1 << num_end_blocks
            num_blocks = DEPTHS[level] + num_end_blocks
            node = self._nodes.get(path.hash_between(level, num_blocks))
            if node is not None and node.core:
                node.mass += self._weight
                match.end = match.deepest = node
                match.num_blocks = num_blocks
                return

    def _use(self, prefix_hash: int, core: str) -> None:
        node = self._nodes.get(prefix_hash)
        if node is None:
            self._nodes[prefix_hash] = PrefixNode(core, self._weight)
            return
        self._nodes.move_to_end(prefix_hash)
        if not node.core:
            node.core = core

    def _count_request(self) -> None:
        self._weight *= _GROWTH
        if self._weight > _LARGEST_WEIGHT:
            self._total /= self._weight
            for node in self._nodes.values():
                node.mass /= self._weight
            self._weight = 1.0
        self._total += self._weight
