"""A request of a simulation, from its arrival at a frontend to its end.

Made by a workload, changed by the core that has it (`core_model.py`). Invariant: `num_emitted` never falls; a request
that loses its core goes on with the prompt and what was emitted.
"""

from dataclasses import dataclass, field

from fast_inference.bench.fleet.prefix_cache import BlockId
from fast_inference.bench.fleet.tokens import Text, block_id


@dataclass(slots=True, eq=False)
class SimRequest:
    """One request. Times are seconds of the simulation."""

    number: int
    arrived_s: float
    prompt: Text
    num_output_tokens: int
    """At the end; at least one."""
    output_owner: int
    """Who writes the answer (`tokens.py`)."""
    session: int = -1
    """The session that goes on when it ends; -1 for none."""
    num_prompt_tokens: int = 0
    frontend: int = 0
    core: str = ""
    """The one that has it, or had it last."""
    num_moves: int = 0
    """Cores that it lost."""
    num_emitted: int = 0
    """Output tokens so far."""
    num_cached_tokens: int = -1
    """Of the prompt, when it began to run first; -1 before."""
    first_token_s: float = -1.0
    last_token_s: float = -1.0
    num_computed_tokens: int = 0
    """On the core that has it."""
    num_known_tokens: int = 0
    """Prompt and what was emitted."""
    num_preemptions: int = 0
    num_times_skipped: int = 0
    block_ids: list[BlockId] = field(default_factory=list)
    """Of the full blocks of the known tokens, as far as they were asked for."""
    held_block_ids: list[BlockId] = field(default_factory=list)
    """Blocks that it uses and others can find."""
    num_private_blocks: int = 0
    """Blocks that it uses besides."""

    def __post_init__(self) -> None:
        self.num_prompt_tokens = self.num_known_tokens = self.prompt.num_tokens

    @property
    def num_blocks(self) -> int:
        """That it uses."""
        return len(self.held_block_ids) + self.num_private_blocks

    def extend_block_ids(self, block_size: int) -> None:
        """Have the ids of all full blocks of known tokens."""
        if not self.block_ids:
            self.block_ids = self.prompt.block_ids(block_size)
        for index in range(len(self.block_ids), self.num_known_tokens // block_size):
            self.block_ids.append(block_id(self.output_owner, index))
