"""What translations of other APIs onto chat completions have in common: `responses_api` and `anthropic_api`.

Pure. Owns how texts become the content of a chat message, and how errors of chat completions get the names of the
other API's fields.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from ipc.errors import FastInferenceError, InvalidRequestError

ValueT = TypeVar("ValueT")
ParamName = Callable[[str], str]
"""Leads from the name of chat's field (`max_tokens`, `messages.0.content`) to that of the other API."""


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
def renamed_params(param_name: ParamName) -> Generator[None, None, None]:
    """Give errors of chat completions the other API's names, in `param` and at the beginning of the message."""
    try:
        yield
    except FastInferenceError as error:
        if error.param is not None:
            new = param_name(error.param)
            if error.message.startswith(error.param):
                error.message = new + error.message.removeprefix(error.param)
            error.param = new
        raise
