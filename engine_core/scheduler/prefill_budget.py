"""How many prompt tokens a step may compute beside running decodes, learned from how long such steps take.

Additive increase, multiplicative decrease: a step that took longer than the target shrinks the budget by as much as it
was too long; one that was fast enough although the budget held it back lets it grow. Times are passed in, so that the
budget is a function of what it observes. `scheduler` asks before each step and reports after it.
"""

MIN_TOKENS = 32
"""Even where decodes alone take longer than the target, prompts get on."""
GROWTH_TOKENS = 32
MAX_DECREASE = 1 / 8
"""One step that hung must not take the budget down to nothing."""


class PrefillBudget:
    """Prompt tokens of one step."""

    def __init__(self, max_tokens: int, target_s: float) -> None:
        self._max_tokens = max_tokens
        self._target_s = target_s
        self.num_tokens = max_tokens

    def observe(self, seconds: float, num_prefill_tokens: int, *, was_cut: bool) -> None:
        """A step took so long and computed so many prompt tokens (at least one).

        `was_cut`: it would have computed more with a larger budget.
        """
        if seconds > self._target_s:
            shrunk = int(num_prefill_tokens * max(MAX_DECREASE, self._target_s / seconds))
            self.num_tokens = max(min(MIN_TOKENS, self._max_tokens), min(self.num_tokens, shrunk))
        elif was_cut:
            self.num_tokens = min(self._max_tokens, self.num_tokens + GROWTH_TOKENS)
