"""Prompts and inputs: one text, several texts, the token ids of one, or the token ids of several.

Their items are checked here and not by pydantic, whose unions report every wrong item of a list that may have a
million. Invariant: what passed has at least one input, none of them empty, no more than the limits, and items of one
exact type (True is no token id). `protocol.py` declares its fields with it, `frontend/input_processor.py` splits them.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, cast

from pydantic import AfterValidator, SkipValidation
from pydantic_core import PydanticCustomError

MAX_PROMPTS = 1024
MAX_INPUTS = 2048
MAX_TOKEN_IDS = 1_000_000
"""Most token ids of one body, whatever the model's context."""

InputValues = str | list[str] | list[int] | list[list[int]]


def split_inputs(inputs: InputValues) -> Sequence[str | list[int]]:
    """One entry per prompt, whichever of the four forms it came in; lists are not copied."""
    if isinstance(inputs, str):
        return [inputs]
    if isinstance(inputs[0], int):
        return [inputs]
    return inputs


def num_inputs(inputs: InputValues) -> int:
    """How many prompts these are."""
    return len(split_inputs(inputs))


def check_token_id_list(ids: list[int]) -> list[int]:
    """The ids, if they are integers and not too many; raises what pydantic expects of a validator."""
    if type(ids) is not list:
        raise PydanticCustomError("ids_type", "must be a list of token ids")
    if len(ids) > MAX_TOKEN_IDS:
        raise ValueError(f"at most {MAX_TOKEN_IDS} token ids")
    if set(map(type, ids)) - {int}:
        position = next(index for index, item in enumerate(ids) if type(item) is not int)
        raise PydanticCustomError("ids_type", "item {position} is no token id", {"position": position})
    return ids


def _check_of_inputs(max_inputs: int) -> Callable[[InputValues], InputValues]:
    def check(inputs: InputValues) -> InputValues:
        if not isinstance(inputs, str | list):
            raise PydanticCustomError(
                "inputs_type", "must be a string, a list of strings, a list of token ids, or a list of such lists"
            )
        if len(inputs) == 0:
            raise ValueError("must not be empty")
        if isinstance(inputs, str):
            return inputs
        if isinstance(inputs[0], int):
            return check_token_id_list(inputs)
        return _check_several(inputs, max_inputs)

    return check


def _check_several(inputs: list[str] | list[list[int]], max_inputs: int) -> list[str] | list[list[int]]:
    if len(inputs) > max_inputs:
        raise ValueError(f"at most {max_inputs} inputs")
    kinds = set(map(type, inputs))
    if kinds not in ({str}, {list}):
        raise PydanticCustomError("inputs_type", "all inputs must be strings, or all of them lists of token ids")
    if not all(inputs):
        raise ValueError("no input may be empty")
    if kinds == {list}:
        if sum(map(len, inputs)) > MAX_TOKEN_IDS:
            raise ValueError(f"at most {MAX_TOKEN_IDS} token ids")
        for ids in cast("list[list[int]]", inputs):
            check_token_id_list(ids)
    return inputs


Prompts = Annotated[InputValues, SkipValidation, AfterValidator(_check_of_inputs(MAX_PROMPTS))]
"""What a text completion continues."""
EmbeddingInputs = Annotated[InputValues, SkipValidation, AfterValidator(_check_of_inputs(MAX_INPUTS))]
"""What is embedded."""
TokenIds = Annotated[list[int], SkipValidation, AfterValidator(check_token_id_list)]
"""A list of token ids, which may be empty."""
