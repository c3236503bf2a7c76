"""Prompts in four forms: exact types, limits, and a cost that no list can drive up."""

import time
import tracemalloc

import pytest
from pydantic import TypeAdapter, ValidationError

from frontend.openai.inputs import (
    MAX_INPUTS,
    MAX_PROMPTS,
    MAX_TOKEN_IDS,
    EmbeddingInputs,
    Prompts,
    TokenIds,
    num_inputs,
    split_inputs,
)

PROMPTS: TypeAdapter[object] = TypeAdapter(Prompts)
INPUTS: TypeAdapter[object] = TypeAdapter(EmbeddingInputs)
IDS: TypeAdapter[object] = TypeAdapter(TokenIds)


@pytest.mark.parametrize(
    "wrong",
    [
        [1] + [""] * 1_400_000,
        [""] + [1] * 1_400_000,
        [[""] * 1_400_000],
        [[]] * 1_400_000,
        [1] * 1_400_000,
        [True] * 1_400_000,
        [None] * 1_400_000,
        [[1], *[2] * 1_400_000],
    ],
)
def test_a_long_wrong_list_is_refused_once_and_at_little_cost(wrong: list[object]):
    tracemalloc.start()
    began_at = time.perf_counter()
    with pytest.raises(ValidationError) as caught:
        PROMPTS.validate_python(wrong)
    seconds, (_, peak_bytes) = time.perf_counter() - began_at, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(caught.value.errors(include_input=False)) == 1
    assert seconds < 2
    assert peak_bytes < 10 * 2**20


@pytest.mark.parametrize(("adapter", "limit"), [(PROMPTS, MAX_PROMPTS), (INPUTS, MAX_INPUTS)])
@pytest.mark.parametrize("item", ["a", [1]])
def test_the_number_of_inputs_is_limited(adapter: TypeAdapter[object], limit: int, item: object):
    assert adapter.validate_python([item] * limit) == [item] * limit
    with pytest.raises(ValidationError, match=f"at most {limit} inputs"):
        adapter.validate_python([item] * (limit + 1))


@pytest.mark.parametrize("extra", [0, 1])
def test_token_ids_are_limited_however_they_are_divided(extra: int):
    ids = [7] * (MAX_TOKEN_IDS // 2)
    for adapter, value in ((PROMPTS, [ids, ids + [7] * extra]), (PROMPTS, ids + ids + [7] * extra)):
        if extra:
            with pytest.raises(ValidationError, match="token ids"):
                adapter.validate_python(value)
        else:
            assert adapter.validate_python(value) is value


@pytest.mark.parametrize("wrong", [[1, True], [1.0], ["1"], [[1]], "1", None, {}, (1,)])
def test_a_token_id_is_an_integer(wrong: object):
    with pytest.raises(ValidationError):
        IDS.validate_python(wrong)


def test_the_position_of_a_wrong_id_is_named():
    with pytest.raises(ValidationError, match="item 2 is no token id"):
        IDS.validate_python([1, 2, "secret", 3])


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [("ab", ["ab"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_inputs_are_split_into_prompts(inputs: object, expected: list[object]):
    checked = PROMPTS.validate_python(inputs)
    assert list(split_inputs(checked)) == expected
    assert num_inputs(checked) == len(expected)


def test_the_schema_still_shows_the_four_forms():
    kinds = [form["type"] for form in PROMPTS.json_schema()["anyOf"]]
    assert kinds == ["string", "array", "array", "array"]
