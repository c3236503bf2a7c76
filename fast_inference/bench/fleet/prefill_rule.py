"""How many prompt tokens a simulated step computes beside its decodes: `PrefillBudget`, once it knows the device.

The engine learns from its steps what decodes and a prompt token take; here both are known from the step-time model.
The rule and its numbers are the engine's own. Next: `core_model.py`.
"""

from engine_core.scheduler import prefill_budget
from fast_inference.bench.fleet.step_time import StepTime


class PrefillRule:
    """Of one device, without `--step-time-target`."""

    def __init__(self, step_time: StepTime, max_tokens: int) -> None:
        self._time = step_time
        self._max_tokens = max_tokens
        self._min_tokens = min(prefill_budget.MIN_TOKENS, max_tokens)
        single_s = step_time.decode_s(1, 0)
        self._undisturbed_s = max(prefill_budget.UNDISTURBED_TARGET_S, prefill_budget.MIN_SHARE * single_s)

    def num_tokens(self, num_decodes: int, num_context_tokens: int, num_prompts: int) -> int:
        """Of a step with so many decodes, where so many requests (≥ 1) want to compute prompts."""
        slowdown = prefill_budget.SLOWDOWN
        if num_decodes:
            decodes_s = self._time.decode_s(num_decodes, num_context_tokens)
            many_s = min(prefill_budget.MAX_TARGET_S, (1 + slowdown * max(1, num_prompts - 1)) * decodes_s)
            left_s = max((1 + slowdown) * decodes_s, many_s) - decodes_s
        else:
            left_s = self._undisturbed_s
        num_tokens = left_s / max(self._time.per_prefill_token_s, prefill_budget.MIN_TOKEN_S)
        return max(self._min_tokens, int(min(self._max_tokens, num_tokens)))

    def num_tokens_beside_waiting(self, num_step_tokens: int) -> int:
        """Of one request, so that something is left for a short prompt that waits behind it."""
        return max(prefill_budget.MIN_TOKENS, num_step_tokens // 2)
