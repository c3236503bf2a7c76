import time

import numpy as np
import pytest

from engine_core.model.sampling.state import FIRST_MASKS_S
from engine_core.structured_output.grammar import GrammarError
from tests.engine_core.model.sampling.rows import make_state


class SlowGrammar:
    """Its masks take a given CPU time; the rest of what the sampler asks of a grammar and its matcher."""

    def __init__(self, seconds):
        self.seconds = seconds

    def new_matcher(self, output_token_ids=()):
        return self

    def fill_mask(self, words):
        end = time.thread_time() + self.seconds
        while time.thread_time() < end:
            pass


def fill_masks(state, count):
    for _ in range(count):
        state.fill_mask(np.zeros(2, dtype=np.int32))


def test_one_slow_mask_is_forgiven():
    fill_masks(make_state(grammar=SlowGrammar(FIRST_MASKS_S * 0.8)), 1)


def test_an_answer_whose_masks_stay_slow_fails():
    with pytest.raises(GrammarError, match="too long"):
        fill_masks(make_state(grammar=SlowGrammar(FIRST_MASKS_S / 4)), 10)
