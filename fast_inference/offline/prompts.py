"""The forms in which prompts and conversations may be given, made into one item for each.

Invariant: what leaves here is a list, whose items are all there before any of them runs, or an iterator, which is read
as answers make room. What is in an item is checked where it becomes the field of a body (`generate_job.py`).
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ipc.errors import InvalidRequestError

Prompt = str | Sequence[int] | Mapping[str, Any]
"""A text, token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`."""
Message = Mapping[str, Any]
"""Of a conversation, as in the HTTP API: `{"role": "user", "content": "…"}`."""
Items = list[Any] | Iterator[Any] | AsyncIterator[Any]

_PROMPT_KEYS = frozenset({"prompt", "prompt_token_ids"})


def prompt_items(prompts: Any) -> Items:
    """One item for each prompt; token ids that are not in a list of such are one prompt."""
    if isinstance(prompts, AsyncIterator):
        return prompts
    if isinstance(prompts, str | Mapping):
        return [prompts]
    if isinstance(prompts, Sequence):
        return [list(prompts)] if prompts and isinstance(prompts[0], int) else list(prompts)
    return _iterator(prompts, "prompts")


def conversation_items(messages: Any) -> Items:
    """One item for each conversation; messages that are not in a list of such are one conversation."""
    if isinstance(messages, AsyncIterator):
        return messages
    if isinstance(messages, Sequence) and not isinstance(messages, str):
        return [messages] if messages and isinstance(messages[0], Mapping) else list(messages)
    return _iterator(messages, "messages")


def async_items(items: Any) -> Any:
    """The iterator of an asynchronous iterable, which the functions above leave as it is; anything else as it is."""
    return aiter(items) if isinstance(items, AsyncIterable) else items


def text_and_ids(prompt: Any) -> tuple[str | None, Any]:
    """The text of a prompt, as far as it is given, and what the body's field `prompt` gets.

    Raises:
        InvalidRequestError: it is in no form of a prompt.
    """
    if isinstance(prompt, Mapping):
        if not prompt or prompt.keys() - _PROMPT_KEYS:
            raise InvalidRequestError("prompt: an object has prompt, prompt_token_ids or both", param="prompt")
        text, ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
        return (text, text) if ids is None else (text, _ids(ids))
    return (prompt, prompt) if isinstance(prompt, str) else (None, _ids(prompt))


def _ids(ids: Any) -> list[Any]:
    """Token ids for a body, which checks them; a list of texts is no prompt."""
    if not isinstance(ids, Sequence) or isinstance(ids, str) or (ids and not isinstance(ids[0], int)):
        raise InvalidRequestError("prompt: must be a text or a list of token ids", param="prompt")
    return list(ids)


def _iterator(items: Any, param: str) -> Iterator[Any]:
    if not isinstance(items, Iterable) or isinstance(items, str):
        raise InvalidRequestError(f"{param}: must be one or several of them, not {type(items).__name__}", param=param)
    return iter(items)
