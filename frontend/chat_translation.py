"""What translations of other APIs onto chat completions have in common: `responses_api` and `anthropic_api`.

Pure. Owns how texts become the content of a chat message, and how errors of chat completions get the names of the
other API's fields.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ipc.errors import FastInferenceError, InvalidRequestError

ValueT = TypeVar("ValueT")


def required(value: ValueT | None, param: str) -> ValueT:
    """The value, unless it is missing; raises `InvalidRequestError` then."""
    if value is None:
        raise InvalidRequestError(f"Missing required field: {param}.", param=param, code="missing_required_parameter")
    return value


def text_content(texts: Sequence[str]) -> str | list[dict[str, Any]]:
    """Texts as parts; a single one, or none, needs no list."""
    return "".join(texts) if len(texts) < 2 else [{"type": "text", "text": text} for text in texts]


def without_nulls(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are there."""
    return {name: value for name, value in values.items() if value is not None}


@contextmanager
def renamed_params(names: Mapping[str, str]) -> Generator[None, None, None]:
    """Give errors the names of this API's fields, in `param` and at the beginning of the message.

    `names` leads from chat's name of a field to ours; what comes behind the name (`messages.0.content`) means a place
    in chat's values and is left out where the name differs.
    """
    try:
        yield
    except FastInferenceError as error:
        rename(error, names)
        raise


def rename(error: FastInferenceError, names: Mapping[str, str]) -> None:
    """Change the error as `renamed_params` does."""
    if error.param is None:
        return
    new = names.get(error.param.partition(".")[0])
    if new is not None:
        if error.message.startswith(error.param):
            error.message = new + error.message.removeprefix(error.param)
        error.param = new
