"""Which positions an embedding is made of, however the prompt is cut."""

import pytest
import torch

from engine_core.model.pooling import Pooling, PoolingConfig, pool_texts

ROWS = torch.tensor([[3.0, 4.0], [0.0, 5.0], [-5.0, 12.0]])
EXPECTED = {"mean": [-2 / 445**0.5, 21 / 445**0.5], "last": [-5 / 13, 12 / 13], "cls": [3 / 5, 4 / 5]}


@pytest.mark.parametrize("chunks", [(3,), (1, 2), (2, 1), (1, 1, 1)])
@pytest.mark.parametrize("kind", EXPECTED)
def test_the_result_does_not_depend_on_the_chunks(kind, chunks):
    pooling = Pooling(PoolingConfig(kind))
    for rows in ROWS.split(list(chunks)):
        pooling.add(rows)
    assert pooling.num_positions == 3
    assert pooling.result() == pytest.approx(EXPECTED[kind])


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_what_has_no_direction_gives_nothing(kind, value):
    pooling = Pooling(PoolingConfig(kind))
    pooling.add(torch.full((2, 4), value))
    assert pooling.result() is None


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_sum_is_fp32_whatever_the_model_computes_in(kind):
    pooling = Pooling(PoolingConfig(kind))
    pooling.add(torch.ones(70_000, 2, dtype=torch.float16))
    assert pooling.result() == pytest.approx([0.5**0.5] * 2)


def test_the_rows_of_a_step_are_not_kept():
    rows = ROWS.clone()
    pooling = Pooling(PoolingConfig("last"))
    pooling.add(rows)
    rows.zero_()
    assert pooling.result() == pytest.approx(EXPECTED["last"])


@pytest.mark.parametrize("kind", EXPECTED)
def test_whole_texts_are_pooled_as_chunks_are(kind):
    texts = torch.stack([ROWS, ROWS + 1])
    pooling = Pooling(PoolingConfig(kind))
    pooling.add(texts[1])
    first, second = pool_texts(texts, PoolingConfig(kind))
    assert first == pytest.approx(EXPECTED[kind])
    assert second == pytest.approx(pooling.result())


def test_without_normalization_the_vector_is_what_was_pooled():
    config = PoolingConfig("mean", is_normalized=False)
    pooling = Pooling(config)
    pooling.add(ROWS)
    assert pooling.result() == pytest.approx([-2 / 3, 7])
    assert pool_texts(torch.stack([ROWS, 0 * ROWS]), config) == [pytest.approx([-2 / 3, 7]), [0.0, 0.0]]
