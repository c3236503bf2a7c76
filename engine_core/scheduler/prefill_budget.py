"""How many prompt tokens a step may compute beside running decodes, so that these hardly feel them.

Learned from how long steps take: what a decode step of a size costs (`StepTimes`), and what a prompt token adds.
Times are passed in, so that the budget is a function of what it observes. `scheduler` asks before each step and reports
after it. Invariant: between `MIN_TOKENS` and the most tokens of a step.
"""

from engine_core.speculation.step_times import StepTimes

MIN_TOKENS = 32
"""Even where decodes alone take longer than the target, prompts get on."""
SLOWDOWN = 1.2
"""A prompt may make a step longer by so many times what its decodes take alone, where no time was asked for: decodes
hardly feel one now and then. From the third request on that wants to compute prompt tokens, each counts."""
MAX_TARGET_S = 0.25
"""All together may not make a step longer than this, but for the first."""
UNDISTURBED_TARGET_S = 0.1
"""Of a step that holds up no decode; it ends so soon that those who come meanwhile wait little."""
BESIDE_ONLINE_TARGET_S = 0.05
"""Of a step with batch requests while online requests come: whoever comes meanwhile waits for its end."""
MIN_DECODES_BESIDE_ONLINE = 16
"""Such a step computes so many decodes at least, if there are as many: each step reads the weights."""
MIN_SHARE = 4.0
"""A step that holds up no decode takes at least so many times as long as a decode step, which reads the weights too."""
SMOOTHING = 0.3
MIN_TOKEN_S = 1e-9
MAX_CHANGE = 2.0
"""One step that hung makes a token look no more than so many times as expensive, and none as much cheaper."""


class PrefillBudget:
    """Prompt tokens of one step."""

    def __init__(self, max_tokens: int, target_s: float | None) -> None:
        """`target_s`: what a step with decodes may take; None for what `SLOWDOWN` says."""
        self._max_tokens = max_tokens
        self._target_s = target_s
        self._decode_times = StepTimes()
        self._token_s: float | None = None

    def observe(self, seconds: float, num_prefill_tokens: int, num_decodes: int) -> None:
        """A step took so long."""
        if num_prefill_tokens == 0:
            self._decode_times.observe(num_decodes, seconds)
            return
        if self._token_s is None:  # no more than this, whatever the decodes took
            self._token_s = max(MIN_TOKEN_S, seconds / num_prefill_tokens) if seconds else None
            return
        decodes_s = self._decode_times.seconds(num_decodes) or 0.0
        if seconds <= decodes_s:  # decodes have become faster
            self._decode_times.observe(num_decodes, seconds)
            return
        token_s = max(MIN_TOKEN_S, (seconds - decodes_s) / num_prefill_tokens)
        token_s = min(max(token_s, self._token_s / MAX_CHANGE), self._token_s * MAX_CHANGE)
        self._token_s += SMOOTHING * min(1.0, num_prefill_tokens / MIN_TOKENS) * (token_s - self._token_s)

    def num_tokens(self, num_decodes: int, num_prompts: int = 1) -> int:
        """Prompt tokens that a step with so many decodes may compute, where so many requests (≥ 1) want some."""
        if self._token_s is None:
            return self._max_tokens
        decodes_s = self._decode_times.seconds(num_decodes)
        num_tokens = (self._target(num_decodes, decodes_s, num_prompts) - (decodes_s or 0.0)) / self._token_s
        return max(min(MIN_TOKENS, self._max_tokens), int(min(self._max_tokens, num_tokens)))

    def num_tokens_beside_online(self, num_decodes: int) -> int:
        """Prompt tokens of batch requests that a step with so many decodes may compute while online requests come."""
        if self._token_s is None:
            return min(MIN_TOKENS, self._max_tokens)
        seconds = BESIDE_ONLINE_TARGET_S - (self._decode_times.seconds(num_decodes) or 0.0)
        return max(min(MIN_TOKENS, self._max_tokens), int(min(self._max_tokens, seconds / self._token_s)))

    def num_decodes_beside_online(self, num_decodes: int) -> int:
        """How many of so many decodes a step with batch requests may compute while online requests come.

        A step has a part that does not depend on its rows, so a step of this number takes at most that part longer.
        """
        seconds = self._decode_times.seconds(num_decodes)
        if not seconds or seconds <= BESIDE_ONLINE_TARGET_S:
            return num_decodes
        num_short = int(num_decodes * BESIDE_ONLINE_TARGET_S / seconds)
        return min(num_decodes, max(MIN_DECODES_BESIDE_ONLINE, num_short))

    def _target(self, num_decodes: int, decodes_s: float | None, num_prompts: int) -> float:
        """Seconds that a step may take whose decodes take `decodes_s`: None where there are none, or none were seen."""
        if num_decodes and self._target_s is not None:
            return self._target_s
        if decodes_s is not None:
            return max(
                (1 + SLOWDOWN) * decodes_s, min(MAX_TARGET_S, (1 + SLOWDOWN * max(1, num_prompts - 1)) * decodes_s)
            )
        return max(UNDISTURBED_TARGET_S, MIN_SHARE * (self._decode_times.seconds(1) or 0.0))
