"""How long an answer took, as the API says it: the field `timings` (llama.cpp's name) and the header `Server-Timing`.

The times are the engine's: they begin when it took the request in, not when it came over HTTP. Of several answers
together `queue`, `prefill` and `ttft` are those of the first one that began, and `decode` goes on to the end of the
last one. Used by `serving.py`, `answer_writer.py` and `frontend/translated_serving.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frontend.generation import Answer

HEADER = "server-timing"


@dataclass(frozen=True, slots=True)
class AnswerTimings:
    """Durations of the answers of one request, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float

    @classmethod
    def of(cls, answers: Sequence[Answer]) -> "AnswerTimings":
        """Of answers that are finished."""
        times = [answer.times for answer in answers if answer.times is not None]
        if not times:
            return cls(0.0, 0.0, 0.0)
        first = min(times, key=lambda item: item.first_token_us)
        end_us = max(item.total_us for item in times)
        return cls(
            first.queue_us / 1000,
            max(0, first.first_token_us - first.queue_us) / 1000,
            max(0, end_us - first.first_token_us) / 1000,
        )

    @property
    def header(self) -> dict[str, str]:
        """`Server-Timing`, as browsers show it."""
        named = (("queue", self.queue_ms), ("prefill", self.prefill_ms), ("decode", self.decode_ms))
        return {HEADER: ", ".join(f"{name};dur={value:.3f}" for name, value in named)}


def timings_of(answers: Sequence[Answer], answers_per_prompt: int) -> dict[str, Any]:
    """The field `timings` for finished answers in order of prompt, `answers_per_prompt` (that is `n`) for each.

    `prompt_n` counts what was computed of the prompts, so without `cached_tokens`. A speed is 0 where there is no time
    to divide by; that of prompts is over the time until the last of them had its first token, that of decoding is about
    the tokens behind each answer's first one.
    """
    timings = AnswerTimings.of(answers)
    first_answers = answers[::answers_per_prompt]
    num_cached_tokens = sum(answer.num_cached_tokens for answer in first_answers)
    num_computed_tokens = sum(answer.num_prompt_tokens for answer in first_answers) - num_cached_tokens
    num_decoded_tokens = sum(max(0, answer.num_output_tokens - answer.num_resumed_tokens - 1) for answer in answers)
    return {
        "queue_ms": timings.queue_ms,
        "prefill_ms": timings.prefill_ms,
        "ttft_ms": round(timings.queue_ms + timings.prefill_ms, 3),
        "decode_ms": timings.decode_ms,
        "decode_tokens_per_second": _speed(num_decoded_tokens, timings.decode_ms),
        "prompt_tokens_per_second": _speed(num_computed_tokens, _prompts_ms(answers, answers_per_prompt)),
        "cached_tokens": num_cached_tokens,
        "prompt_n": num_computed_tokens,
        "predicted_n": sum(answer.num_output_tokens for answer in answers),
        "cores": list(dict.fromkeys(name for answer in answers for name in answer.core_names)),
    }


def _prompts_ms(answers: Sequence[Answer], answers_per_prompt: int) -> float:
    """From when the first prompt was scheduled until all had a first token; each is computed once for its answers."""
    times = [answer.times for answer in answers if answer.times is not None]
    if not times:
        return 0.0
    first = min(times, key=lambda item: item.first_token_us)
    groups = [answers[start : start + answers_per_prompt] for start in range(0, len(answers), answers_per_prompt)]
    first_tokens_us = [[item.times.first_token_us for item in group if item.times is not None] for group in groups]
    return max(0, max(min(group) for group in first_tokens_us if group) - first.queue_us) / 1000


def _speed(num_tokens: int, duration_ms: float) -> float:
    return round(num_tokens * 1000 / duration_ms, 3) if duration_ms else 0.0
