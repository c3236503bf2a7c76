"""Token counts as the API reports them. `completion_tokens` includes the token that ended an answer (EOS, or the one
that completed a stop string); the prompt counts once, whatever `n` is."""

from collections.abc import Sequence
from typing import Any

from frontend.generation import Answer


def usage_of(answers: Sequence[Answer], answers_per_prompt: int) -> dict[str, Any]:
    """The `usage` object for answers in order of prompt, `answers_per_prompt` (that is `n`) for each."""
    first_answers = answers[::answers_per_prompt]
    num_prompt_tokens = sum(answer.num_prompt_tokens for answer in first_answers)
    num_output_tokens = sum(answer.num_output_tokens for answer in answers)
    num_cached_tokens = sum(answer.num_cached_tokens for answer in first_answers)
    usage: dict[str, Any] = {
        "prompt_tokens": num_prompt_tokens,
        "completion_tokens": num_output_tokens,
        "total_tokens": num_prompt_tokens + num_output_tokens,
        "prompt_tokens_details": {"cached_tokens": num_cached_tokens},
    }
    reasoning = [answer.num_reasoning_tokens for answer in answers if answer.num_reasoning_tokens is not None]
    if reasoning:
        usage["completion_tokens_details"] = {"reasoning_tokens": sum(reasoning)}
    return usage
