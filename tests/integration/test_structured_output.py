"""Answers of SmolLM2 at temperature 1 are what their grammars say; `scripts/check_structured_output.py` makes more."""

import pytest
import torch

from scripts.check_structured_output import Generator
from tests.structured_output_cases import CASES

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def generator(smollm2_dir):
    torch.set_num_threads(1)  # a team of threads crawls wherever something else runs
    return Generator(str(smollm2_dir), "float32", threads=1, batch=len(CASES))


def test_every_answer_that_ends_by_itself_is_valid(generator):
    """One answer under each grammar, all in one batch."""
    verdicts = generator.generate(CASES, seeds=range(len(CASES)), max_tokens=56)
    problems = [problem for verdict in verdicts.values() for problem in verdict.problems]
    assert problems == []
    assert sum(verdict.num_ended for verdict in verdicts.values()) >= len(CASES) // 3
