"""What `LLM` and its asynchronous twin have in common: the core, the tokenizer, and how calls become jobs.

Invariant: what can be refused of a list is refused before any of it runs; of an iterator, each item when it is reached.
Next: `connection.py`, `generate_job.py`, `window.py`.
"""

import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tokenizers import Tokenizer

from fast_inference.offline.connection import connect
from fast_inference.offline.prompts import Items, conversation_items, prompt_items
from fast_inference.offline.requester import Requester
from fast_inference.offline.sampling_params import SamplingParams
from fast_inference.offline.window import Work
from ipc.errors import ConfigError, InvalidRequestError
from ipc.messages import RequestClass

if TYPE_CHECKING:
    import torch

OutputT = TypeVar("OutputT")
Params = SamplingParams | Sequence[SamplingParams] | None
"""Of all prompts, or one for each; vLLM's defaults where not given."""

_UNREAD_WINDOWS = 4
"""Outputs that wait for the one before them, in numbers of prompts that run at once."""


class OfflineEngine:
    """A core to ask; ends with `close`, at the end of a `with`, with its last reference, or with the program."""

    def __init__(
        self,
        model: "str | os.PathLike[str] | torch.nn.Module | None" = None,
        tokenizer: Any = None,
        *,
        attach: str | os.PathLike[str] | None = None,
        request_class: Literal["batch", "online"] = "batch",
        **settings: Any,
    ) -> None:
        """Start a core in this process, or connect to the one of a running server; returns when it can be asked.

        Args:
            model: a folder, a file, a hub id, a name that `fast-inference pull` knows, or a module;
                smollm2-135m-instruct where not given.
            tokenizer: a folder, a hub id, a tokenizer of transformers or `tokenizers`; the model's own where not given.
            attach: run dir of a server, or its URL on this machine; then there is no model and no other setting.
            request_class: `batch` yields to requests of others, `online` is equal to them, where the core has others.
            settings: any settings of the server, by their names in configs/default.yaml with underscores.

        Raises:
            ConfigError: wrong settings, a model that cannot be run, or no server to attach to.
            EngineUnavailableError: the core of that server is not ready.
        """
        if request_class not in ("batch", "online"):
            raise ConfigError(f"request_class must be 'batch' or 'online', not {request_class!r}")
        kind = RequestClass[request_class.upper()]
        self._core = connect(model, tokenizer, attach, kind, settings)
        self._client = self._core.client
        self._requester = Requester(self._client, kind)

    def close(self) -> None:
        """End it; what runs ends in an error. Later calls do nothing."""
        self._core.close()

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer, of the package `tokenizers`; it is in use, so change nothing about it.

        Raises:
            EngineUnavailableError: the engine is closed, or its core is being replaced.
        """
        return self._client.state.model().tokenizer.backend

    def _work(
        self,
        run: Callable[[Any], Coroutine[Any, Any, OutputT]],
        on_output: Callable[[OutputT], None],
        num_answers: int,
        *,
        is_lazy: bool,
    ) -> Work[Any, OutputT]:
        """Work on prompts of so many answers each; `is_lazy` bounds what waits to be read."""
        max_running = max(1, self._requester.num_at_once // num_answers)
        return Work(self._client, run, max_running, max_running * _UNREAD_WINDOWS if is_lazy else None, on_output)


def pairs_of(prompts: Any, params: Params, *, is_chat: bool) -> Items:
    """(prompt or conversation, parameters) for each, in a list or an iterator as the prompts are.

    Raises:
        InvalidRequestError: these are no prompts, no parameters, or not as many of one as of the other.
    """
    items = conversation_items(prompts) if is_chat else prompt_items(prompts)
    if params is None or isinstance(params, SamplingParams):
        return with_all(items, params or SamplingParams())
    if not isinstance(params, Sequence) or not all(isinstance(item, SamplingParams) for item in params):
        raise InvalidRequestError("sampling_params: must be SamplingParams, or a list of them", param="sampling_params")
    if not isinstance(items, list) or len(items) != len(params):
        raise InvalidRequestError(
            f"sampling_params: {len(params)} of them need a list of as many prompts", param="sampling_params"
        )
    return list(zip(items, params, strict=True))


def with_all(items: Items, params: SamplingParams) -> Items:
    """The same parameters with each item."""
    if isinstance(items, list):
        return [(item, params) for item in items]
    if isinstance(items, Iterator):
        return ((item, params) for item in items)
    return ((item, params) async for item in items)


def num_answers_of(params: Params) -> int:
    """Most answers that any of the prompts asks for, as far as that is a number."""
    given = [params] if params is None or isinstance(params, SamplingParams) else params
    return max((item.n for item in given if item is not None and isinstance(item.n, int) and item.n > 0), default=1)
