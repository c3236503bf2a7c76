"""All that crosses between the scheduler and the model runner: counts and ids one way, tokens the other.

The scheduler decides with counts alone and the runner keeps the tokens, so neither knows the other. A runner keeps the
state of a request from the step in which it comes as `NewRequestData` until its id is in `dropped_request_keys`
(finished, aborted or preempted); a preempted request comes again as new.
"""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType, Protocol

from engine_core.structured_output.grammar import CompiledGrammar
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

RequestKey = NewType("RequestKey", int)
"""The core's own number of a request, unique over all clients for the life of the process."""


@dataclass(frozen=True, slots=True)
class NewRequestData:
    """A request that the runner has not, or no longer, in its batch."""

    key: RequestKey
    token_ids: tuple[int, ...]
    """Prompt and the output so far."""
    num_prompt_tokens: int
    sampling_params: SamplingParams
    task: Task
    block_ids: tuple[int, ...]
    """Its block table; later blocks come in `ScheduledRequest.new_block_ids`."""
    grammar: CompiledGrammar | None = None
    """Set where `sampling_params.structured_output` is; the output so far follows it."""
    adapter: str = ""
    """One of `ModelInfo.adapters`; empty for none."""


@dataclass(frozen=True, slots=True)
class ScheduledRequest:
    """One request's share of a step: tokens [num_computed_tokens, num_computed_tokens + num_scheduled_tokens)."""

    key: RequestKey
    num_computed_tokens: int
    num_scheduled_tokens: int
    new_block_ids: tuple[int, ...]
    """Appended to the request's block table before the step."""
    is_last_chunk: bool
    """True where the step reaches the last known token, so that a token is sampled (or an embedding is complete)."""
    draft_token_ids: tuple[int, ...] = ()
    """Guesses of the tokens that follow the last known one; the last of the scheduled tokens are these."""


@dataclass(frozen=True, slots=True)
class SchedulerOutput:
    """One step, as the runner gets it."""

    step: int
    new_requests: tuple[NewRequestData, ...]
    scheduled: tuple[ScheduledRequest, ...]
    """Decodes first, then prefill chunks."""
    dropped_request_keys: tuple[RequestKey, ...] = ()
    """To be forgotten before this step; may name keys that the runner never saw."""

    @property
    def num_scheduled_tokens(self) -> int:
        """Tokens computed in this step."""
        return sum(request.num_scheduled_tokens for request in self.scheduled)


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities at one or more positions of a request, of the raw logits: before grammar, penalties, …"""

    num_entries: int
    """Entries of each position: the token itself, then the best tokens in falling order."""
    ranks: "array[int]"
    """`[num_positions]`, typecode i: rank of the token itself in the whole vocabulary, from 1."""
    token_ids: "array[int]"
    """`[num_positions * num_entries]`, typecode i."""
    values: "array[float]"
    """`[num_positions * num_entries]`, typecode f: natural logarithms."""


@dataclass(frozen=True, slots=True)
class ModelRunnerOutput:
    """What a step gave."""

    sampled_token_ids: dict[RequestKey, int] = field(default_factory=dict)
    """One token for each GENERATE request whose chunk was the last, except the failed."""
    further_token_ids: dict[RequestKey, list[int]] = field(default_factory=dict)
    """The tokens sampled after that one, as many as draft tokens turned out right."""
    embeddings: dict[RequestKey, list[float]] = field(default_factory=dict)
    """Pooled from the last hidden states, for each EMBED request whose chunk was the last; L2-normalized, unless the
    model's own files say otherwise."""
    failures: dict[RequestKey, str] = field(default_factory=dict)
    """Requests that failed alone, with an error code such as `nan_logits`; the others are unaffected."""
    logprobs: dict[RequestKey, Logprobs] = field(default_factory=dict)
    """One position for each sampled token of a request with `num_logprobs >= 0`."""
    prompt_logprobs: dict[RequestKey, Logprobs] = field(default_factory=dict)
    """With the first sampled token of a request with `num_prompt_logprobs >= 0`: all prompt positions but the first."""
    completed_grammars: set[RequestKey] = field(default_factory=set)
    """Requests whose sampled token completed their grammar: nothing but EOS could follow."""

    def add(self, other: "ModelRunnerOutput") -> None:
        """Take in what another part of the same step gave."""
        self.sampled_token_ids.update(other.sampled_token_ids)
        self.further_token_ids.update(other.further_token_ids)
        self.embeddings.update(other.embeddings)
        self.failures.update(other.failures)
        self.logprobs.update(other.logprobs)
        self.prompt_logprobs.update(other.prompt_logprobs)
        self.completed_grammars.update(other.completed_grammars)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the rest of the core must know about the loaded model."""

    model_id: str
    fingerprint: str
    tokenizer_dir: str
    vocab_size: int
    eos_token_ids: tuple[int, ...]
    max_model_len: int
    num_blocks: int
    """0 where there is no KV cache."""
    embedding_size: int
    """0 where the model gives no embeddings."""
    dtype: str
    device: str
    pooling: str = "mean"
    """Which positions an embedding is made of."""
    is_encoder: bool = False
    """Its tokens see each other both ways: it gives embeddings and no text, computes a prompt in one step, and has no
    KV cache."""
    adapters: Mapping[str, bytes] = field(default_factory=dict)
    """Fingerprint of each LoRA adapter, by name; equal for equal files."""


class StepMemoryError(MemoryError):
    """A step needed more memory than there is, on the device or on the host."""


class ModelRunner(Protocol):
    """Runs steps on one device; `engine_core/model/` has `model_runner.py`, `encoder/runner.py`, `fake_runner.py`."""

    @property
    def info(self) -> ModelInfo:
        """Facts about the loaded model."""
        ...

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step: write the keys and values of every scheduled token, then sample.

        Raises:
            StepMemoryError: the memory of the device or the host did not suffice.
            Exception: the step failed as a whole. What is kept of its requests means nothing then; whoever is to go on
                comes again as new (`step_retry.py`).
        """
        ...
