"""Which core takes a request: the one that most probably holds its prefix, as long as it is not too loaded.

`ipc.client.EngineClient` asks for each request; `scripts/simulate_fleet.py` asks the same class. The rule:

1. A prompt that goes on from one that was sent before goes where that one went: the deepest beginning in memory counts.
2. Where nothing is remembered, the first block decides by rendezvous hashing, so that all frontends decide alike.
3. A beginning that more than `hot_shares` fair shares of the traffic have (a common system prompt) says too little: it
   belongs to a group of cores, larger the more traffic it has, and the first tokens in which prompts with it differ
   (`frontend/routing/divergence.py`) choose one of the group. That is for new chats: later turns follow rule 1.
4. The core so found takes the request unless its load (`frontend/routing/core_load.py`) is worse than that of the
   better of two others by more than a bound: 1, and what the remembered prefix would cost to compute. Then the better
   of the two takes it, and memory makes that stick.
5. Prompts shorter than a block, embeddings and prompt log-probabilities use no cache: the less loaded of two.

Invariant: the same calls in the same order give the same answers; no clock, no random numbers, no I/O.
Read next: `frontend/routing/`.
"""

from collections.abc import Sequence
from zlib import crc32

from frontend.routing.core_load import USUAL_SCALE, LoadScale
from frontend.routing.divergence import KEY_TOKENS, Divergence
from frontend.routing.prefix_memory import Match, PrefixMemory
from frontend.routing.prefix_path import PrefixPath
from frontend.routing.rendezvous import Rendezvous, bucket_of
from frontend.routing.sent_prefixes import SentPrefixes
from ipc.messages import Add, Task
from ipc.placement import CoreView

_WEYL = 0x9E3779B97F4A7C15
_MIXER = 0xD6E8FEB86659FD93
_MASK_64 = 0xFFFFFFFFFFFFFFFF
_LOAD_BOUND = 1.0


class EngineRouter:
    """The placement policy of frontends and batch jobs (`ipc.placement.Placement`), one for each client."""

    def __init__(
        self,
        block_size: int = 32,
        *,
        load_scale: LoadScale = USUAL_SCALE,
        max_nodes: int = 16_384,
        hot_shares: float = 1.5,
        min_common: int = 4,
    ) -> None:
        """Makes a router that remembers nothing yet.

        Args:
            block_size: tokens of a block of prefix hashing; need not be that of the cores' caches.
            load_scale: what counts as too much load for a core.
            max_nodes: beginnings of prompts that are remembered, about 300 bytes each; a chat needs 5 to 15.
            hot_shares: a beginning is spread over several cores when it has more of the traffic than this many
                cores should take of it on average.
            min_common: a whole prompt that so many others went on from lately is no chat's turn but what many have.
        """
        self._block_size = block_size
        self._load_scale = load_scale
        self._hot_shares = hot_shares
        self._min_common = min_common
        self._rendezvous = Rendezvous()
        self._memory = PrefixMemory(max_nodes)
        self._sent = SentPrefixes()
        self._positions: dict[str, int] = {}
        """Where each core was in the last list."""
        self._num_chosen = 0

    def on_cores_changed(self, names: Sequence[str]) -> None:
        """These cores are ready now: what went to others is forgotten."""
        gone = set(self._rendezvous.names).difference(names)
        self._rendezvous.set_cores(names)
        if gone:
            self._memory.forget(gone)
            self._sent.forget(gone)

    def choose(self, add: Add, cores: Sequence[CoreView]) -> int:
        """The index of the core that is to take the request; there is at least one core, and all of them are ready."""
        self._num_chosen += 1
        if len(self._rendezvous.names) < len(cores):
            self.on_cores_changed([core.name for core in cores])
        path = PrefixPath(add, self._block_size)
        if not path.hashes or not _reads_prefix_cache(add):
            index, num_known_tokens = self._less_loaded_of_two(path.hash_of_all(), add, cores), 0
        else:
            match = self._memory.find(path)
            index, num_known_tokens = self._choose_by_prefix(path, match, add, cores)
            self._memory.remember(path, match, cores[index].name)
        self._sent.add(cores[index].name, num_known_tokens)
        return index

    def _choose_by_prefix(self, path: PrefixPath, match: Match, add: Add, cores: Sequence[CoreView]) -> tuple[int, int]:
        """The index of the core, and how many of the tokens it was sent before."""
        home, second, second_holds_it = self._candidates(path, match)
        first_index, second_index = self._position(home, cores), self._position(second, cores)
        num_tokens = len(add.prompt_token_ids)
        num_known_tokens = match.num_blocks * self._block_size
        if first_index < 0:  # not all that are ready can take every request
            if second_index < 0:
                return self._less_loaded_of_two(path.hashes[-1], add, cores), 0
            first_index, second_index = second_index, -1
            num_known_tokens = num_known_tokens if second_holds_it else 0
        bound = _LOAD_BOUND + num_known_tokens / self._load_scale.waiting_tokens
        first_load = self._load_of(cores[first_index], num_tokens)
        if first_load <= bound or len(cores) == 1:
            return first_index, num_known_tokens
        if second_index in (-1, first_index):
            second_index, second_holds_it = self._another(path, cores, first_index, first_index), False
        third_index = self._another(path, cores, first_index, second_index)
        second_load = self._load_of(cores[second_index], num_tokens)
        third_load = self._load_of(cores[third_index], num_tokens)
        if first_load <= min(second_load, third_load) + bound:
            return first_index, num_known_tokens
        if second_load <= third_load + (bound if second_holds_it else 0):
            return second_index, num_known_tokens if second_holds_it else 0
        return third_index, 0

    def _candidates(self, path: PrefixPath, match: Match) -> tuple[str, str, bool]:
        """The core that takes it, the next one, and whether that one holds the prefix too."""
        group_size = self._group_size(match)
        chat_hash = _hash_of_chat(path, match) if group_size else None
        if chat_hash is not None:
            bucket = bucket_of(path.hashes[len(match.nodes) - 1])
            return (*self._rendezvous.two_of_group(bucket, group_size, bucket_of(chat_hash)), True)
        first, second = self._rendezvous.first_two(bucket_of(path.hashes[0]))
        node = match.deepest
        if node is None:
            return first, second, False
        if node.overflow_core:
            return node.core, node.overflow_core, True
        return node.core, first if first != node.core else second, False

    def _group_size(self, match: Match) -> int:
        """How many cores share the traffic of the beginning that is all that is known of a prompt; 0 for just one."""
        if not match.nodes or (match.end is not None and self._memory.num_recent(match.end) < self._min_common):
            return 0  # one chat goes on, and no others have begun so
        beginning = match.nodes[-1]
        num_shares = self._memory.share_of(beginning) * len(self._rendezvous.names)
        if num_shares <= self._hot_shares or self._memory.num_recent(beginning) < 2:
            return 0
        return 1 << int(num_shares).bit_length()  # a power of two: no two frontends count quite the same

    def _less_loaded_of_two(self, prompt_hash: int, add: Add, cores: Sequence[CoreView]) -> int:
        if len(cores) == 1:
            return 0
        draw = self._draw(prompt_hash)
        first = draw % len(cores)
        second = (first + 1 + (draw >> 32) % (len(cores) - 1)) % len(cores)
        num_tokens = len(add.prompt_token_ids)
        return first if self._load_of(cores[first], num_tokens) <= self._load_of(cores[second], num_tokens) else second

    def _load_of(self, core: CoreView, num_prompt_tokens: int) -> float:
        num_sent = core.num_sent_since
        num_known_tokens = self._sent.num_known_tokens(core.name, num_sent) if num_sent else 0
        return self._load_scale.load_of(core, num_prompt_tokens, num_known_tokens)

    def _another(self, path: PrefixPath, cores: Sequence[CoreView], one: int, two: int) -> int:
        """Any core but these two (the second one again where there are no more)."""
        num_cores = len(cores)
        index = self._draw(path.hashes[-1]) % num_cores
        for _ in range(2):
            if index in (one, two):
                index = (index + 1) % num_cores
        return index if index != one else two

    def _draw(self, prompt_hash: int) -> int:
        """64 bits that differ from call to call and from prompt to prompt."""
        draw = (self._num_chosen * _WEYL + prompt_hash) & _MASK_64
        draw = (draw ^ draw >> 32) * _MIXER & _MASK_64
        return draw ^ draw >> 32

    def _position(self, name: str, cores: Sequence[CoreView]) -> int:
        """Where this core is in the list; -1 where it is not."""
        index = self._positions.get(name, -1)
        if 0 <= index < len(cores) and cores[index].name == name:
            return index
        self._positions = {core.name: index for index, core in enumerate(cores)}
        return self._positions.get(name, -1)


def _hash_of_chat(path: PrefixPath, match: Match) -> int | None:
    """Of what tells chats with the same beginning apart, which all its turns have; None while none differed."""
    level = len(match.nodes) - 1
    beginning = match.nodes[level]
    if beginning.divergence is None:
        beginning.divergence = Divergence()
    rest = path.bytes_after(level, KEY_TOKENS)
    num_bytes = beginning.divergence.observe(rest)
    if not num_bytes:
        return None
    return crc32(rest[:num_bytes], path.hashes[level]) if num_bytes <= len(rest) else path.hash_of_all()


def _reads_prefix_cache(add: Add) -> bool:
    return add.task is Task.GENERATE and (add.sampling_params.num_prompt_logprobs < 0 or add.num_resumed_tokens > 0)
