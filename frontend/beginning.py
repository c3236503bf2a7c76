"""The beginning of an answer that an earlier process has left, from which the next one goes on.

A token depends on its request, its seed and its position alone (`ipc/recovery.py`), so that the answer is the same as
if nothing had happened. Invariant: a beginning is used only for what it was made of: the same model, adapter, prompt
and sampling. Used by `generation.py`; `batch/checkpoint.py` keeps them.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from frontend.input_processor import EngineInput
from frontend.state import ServedModel


@dataclass(frozen=True, slots=True)
class Beginning:
    """Tokens of one answer."""

    digest: bytes
    """Of what they are an answer to."""
    seed: int
    token_ids: Sequence[int]


def digest_of(model: ServedModel, item: EngineInput, adapter: str) -> bytes:
    """Equal for requests whose answers are equal under one seed; `adapter` is empty for the model itself."""
    digest = hashlib.blake2b(array("i", item.prompt_token_ids).tobytes(), digest_size=16)
    digest.update(model.welcome.model_fingerprint.encode())
    digest.update(repr((replace(item.sampling_params, seed=0), adapter)).encode())
    return digest.digest()


def can_go_on(item: EngineInput) -> bool:
    """False where more than the tokens would have to be known."""
    return item.sampling_params.num_logprobs < 0 and item.sampling_params.num_prompt_logprobs < 0
