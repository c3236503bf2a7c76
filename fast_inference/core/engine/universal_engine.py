"""An engine in this process, as its user holds it: text in, text out, whole or in pieces, synchronous or not.

Made by `create.py`. Everything may be called from any thread, the synchronous methods also inside a running event loop
(a notebook). It ends with `close`, at the end of a `with`, with the last reference to it, or with the program; then
what runs ends in an error. Next: `text_requests.py`, `client_thread.py`.
"""

import asyncio
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import aclosing
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Literal, TypeVar, overload

from fast_inference.core.engine.client_thread import ClientThread
from fast_inference.core.engine.engine_thread import EngineFolder, EngineThread
from fast_inference.core.engine.streaming import items_of
from fast_inference.core.engine.text_requests import Fields, TextRequests
from fast_inference.core.engine.waiting import answer_of, next_of
from fast_inference.settings import Settings
from frontend.generation import Answer
from ipc.endpoints import RunDir
from ipc.errors import InvalidRequestError

ResultT = TypeVar("ResultT")
Prompt = str | Sequence[int]
"""A text, or token ids."""
Message = dict[str, Any]
"""Of a conversation, as in the HTTP API: `{"role": "user", "content": "…"}`."""


class UniversalEngine:
    """A running engine."""

    def __init__(self, settings: Settings, folder: EngineFolder, engine: EngineThread, client: ClientThread) -> None:
        """Take over its parts, which end with this object."""
        self.settings = settings
        """As it was started."""
        self.run_dir: RunDir = folder.run_dir
        """Where clients find its core."""
        self._client = client
        self._requests = TextRequests(client.state)
        self._finalizer = weakref.finalize(self, _end, folder, engine, client)

    @property
    def client(self) -> ClientThread:
        """Its connection to the core, for requests that have no method here."""
        return self._client

    def __enter__(self) -> "UniversalEngine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the engine; later calls do nothing."""
        self._finalizer()

    # --- synchronous ---

    @overload
    def generate(self, prompts: str, *, stream: Literal[False] = False, **params: Any) -> str: ...
    @overload
    def generate(self, prompts: Prompt, *, stream: Literal[True], **params: Any) -> Iterator[str]: ...
    @overload
    def generate(
        self, prompts: Sequence[str] | Sequence[int] | Sequence[Sequence[int]], **params: Any
    ) -> list[str] | str: ...
    def generate(
        self,
        prompts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]],
        *,
        stream: bool = False,
        **params: Any,
    ) -> str | list[str] | Iterator[str]:
        """Continue a prompt, or several side by side.

        Args:
            prompts: a text or token ids; or a list of either, for which a list comes back.
            stream: give one prompt's answer in pieces, as they come; who stops reading stops the request.
            params: the fields of `POST /v1/completions`: `max_tokens` (16), `temperature` (1.0), `top_p`, `top_k`,
                `seed`, `stop`, `ignore_eos`, ….

        Raises:
            InvalidRequestError: a parameter is unknown or out of range; `ContextLengthError`: the prompt is too long.
            ModelNotFoundError: `model` is given, and is neither the model nor one of its adapters.
            EngineUnavailableError: the engine is closed or has failed.
        """
        fields = _completion_fields(prompts, params)
        if stream:
            _check_single(prompts)
            return self._stream(self._requests.stream_completion, fields)
        return _texts(prompts, self._call(self._requests.complete(fields)) if fields["prompt"] else [])

    @overload
    def chat(self, messages: Sequence[Message], *, stream: Literal[False] = False, **params: Any) -> str: ...
    @overload
    def chat(self, messages: Sequence[Message], *, stream: Literal[True], **params: Any) -> Iterator[str]: ...
    def chat(self, messages: Sequence[Message], *, stream: bool = False, **params: Any) -> str | Iterator[str]:
        """The text of the answer to a conversation; `params` are the fields of `POST /v1/chat/completions`.

        Raises as `generate` does.
        """
        fields = {"messages": list(messages), **params}
        if stream:
            return self._stream(self._requests.stream_chat, fields)
        return self._call(self._requests.chat(fields)).text

    def embed(self, texts: str | Sequence[str], **params: Any) -> list[list[float]]:
        """The vector of each text, in a list also for a single one; `params` are the fields of `POST /v1/embeddings`.

        Raises as `generate` does, and `InvalidRequestError` where the model gives no embeddings.
        """
        return self._call(self._requests.embed({"input": [texts] if isinstance(texts, str) else list(texts), **params}))

    # --- asynchronous, on any event loop ---

    async def agenerate(
        self, prompts: str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]], **params: Any
    ) -> str | list[str]:
        """`generate`, awaited; cancelling it stops the requests."""
        fields = _completion_fields(prompts, params)
        answers = await self._await(self._requests.complete(fields)) if fields["prompt"] else []
        return _texts(prompts, answers)

    async def achat(self, messages: Sequence[Message], **params: Any) -> str:
        """`chat`, awaited."""
        return (await self._await(self._requests.chat({"messages": list(messages), **params}))).text

    def astream(self, prompt: Prompt, **params: Any) -> AsyncIterator[str]:
        """`generate` with `stream=True`, for `async for`."""
        _check_single(prompt)
        fields = _completion_fields(prompt, params)
        return items_of(self._client, lambda: self._requests.stream_completion(fields))

    # --- between threads ---

    def _call(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        future = self._client.submit(work)
        try:
            return answer_of(future)
        finally:
            future.cancel()  # where we were interrupted

    async def _await(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return await asyncio.wrap_future(self._client.submit(work))

    def _stream(self, begin: Callable[[Fields], AsyncGenerator[str, None]], fields: Fields) -> Iterator[str]:
        pieces: SimpleQueue[str | None] = SimpleQueue()

        async def pump() -> None:
            async with aclosing(begin(fields)) as texts:
                async for text in texts:
                    pieces.put(text)

        future = self._client.submit(pump())
        future.add_done_callback(lambda _: pieces.put(None))
        try:
            while (piece := next_of(pieces)) is not None:
                yield piece
            answer_of(future)
        finally:
            future.cancel()


def _completion_fields(prompts: Any, params: dict[str, Any]) -> Fields:
    if isinstance(prompts, str):
        return {"prompt": prompts, **params}
    return {"prompt": [item if isinstance(item, str | int) else list(item) for item in prompts], **params}


def _is_single(prompts: Any) -> bool:
    return isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))


def _check_single(prompts: Any) -> None:
    if not _is_single(prompts):
        raise InvalidRequestError("prompt: one prompt can be streamed at a time", param="prompt")


def _texts(prompts: Any, answers: list[Answer]) -> str | list[str]:
    texts = [answer.text for answer in answers]
    return texts[0] if _is_single(prompts) else texts


def _end(folder: EngineFolder, engine: EngineThread, client: ClientThread) -> None:
    """End the parts of an engine; on the client's own thread, which collects garbage too, another one does it.

    A forked process ends without touching the engine of its parent.
    """
    if not client.is_here:
        return
    if client.is_current or engine.is_current:
        threading.Thread(target=_end, args=(folder, engine, client), name="engine end").start()
        return
    client.stop()
    engine.stop()
    folder.remove()
