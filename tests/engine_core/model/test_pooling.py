"""Which positions an embedding is made of, however the prompt is cut."""

import pytest
import torch

from engine_core.model.pooling import Pooling

ROWS = torch.tensor([[3.0, 4.0], [0.0, 5.0], [-5.0, 12.0]])
EXPECTED = {"mean": [-2 / 445**0.5, 21 / 445**0.5], "last": [-5 / 13, 12 / 13], "cls": [3 / 5, 4 / 5]}


@pytest.mark.parametrize("chunks", [(3,), (1, 2), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize("kind", EXPECTED)
def test_the_result_does_not_depend_on_the_chunks(kind, chunks):
    pooling = Pooling(kind)
    for rows in ROWS.split(list(chunks)):
        pooling.add(rows)
    assert pooling.num_positions == 3
    assert pooling.result() == pytest.approx(EXPECTED[kind])


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_what_has_no_direction_gives_nothing(kind, value):
    pooling = Pooling(kind)
    pooling.add(torch.full((2, 4), value))
    assert pooling.result() is None


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_sum_is_fp32_whatever_the_model_computes_in(kind):
    pooling = Pooling(kind)
    pooling.add(torch.ones(70_000, 2, dtype=torch.float16))
    assert pooling.result() == pytest.approx([0.5**0.5] * 2)


def test_the_rows_of_a_step_are_not_kept():
    rows = ROWS.clone()
    pooling = Pooling("last")
    pooling.add(rows)
    rows.zero_()
    assert pooling.result() == pytest.approx(EXPECTED["last"])
