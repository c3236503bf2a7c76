"""Limits of what one body may ask for in all: what is harmless once is not with a thousand answers.

Called by `frontend/openai/serving.py` between tokenizing and submitting. Invariant: what a frontend keeps for one
request, and what it sends to the core for it, stay below some hundred MiB.
"""

from collections.abc import Sequence

from frontend.input_processor import EngineInput
from frontend.openai.protocol import GenerationBody
from ipc.errors import InvalidRequestError

MAX_LOGPROB_ENTRIES = 2**20
"""Most log-probabilities that are kept until the answer is written: answers of 50,000 tokens with 20 best ones each."""
MAX_REPEATED_IDS = 2**22
"""Most `allowed_token_ids` and `logit_bias` of all answers together; each answer is a request of its own."""


def check_limits(body: GenerationBody, inputs: Sequence[EngineInput], *, is_kept: bool) -> None:
    """Raise `InvalidRequestError` for a body that asks for too much in all; `param` is a field to ask less with.

    `is_kept` says that the log-probabilities of answers are kept until their end, as all but plain streams do.
    """
    num_ids = len(body.allowed_token_ids or ()) + len(body.logit_bias)
    if num_ids * len(inputs) > MAX_REPEATED_IDS:
        param = "allowed_token_ids" if body.allowed_token_ids else "logit_bias"
        raise InvalidRequestError(
            f"{len(inputs)} answers with {num_ids} {param} each are too many: at most {MAX_REPEATED_IDS} in all",
            param=param,
        )
    num_prompt_entries = sum(
        len(item.prompt_token_ids) * (item.sampling_params.num_prompt_logprobs + 1) for item in inputs
    )
    num_answer_entries = sum(
        item.sampling_params.max_tokens * (item.sampling_params.num_logprobs + 1) for item in inputs
    )
    num_entries = num_prompt_entries + (num_answer_entries if is_kept else 0)
    if num_entries > MAX_LOGPROB_ENTRIES:
        param = "logprobs" if body.num_logprobs is not None else "prompt_logprobs"
        raise InvalidRequestError(
            f"Up to {num_entries} log-probabilities are asked for, {MAX_LOGPROB_ENTRIES} at most can be given: ask for "
            "fewer tokens, answers or best tokens, or for a stream.",
            param=param,
        )
