"""`AsyncLLM`: what `LLM` does, for `await` and `async for`, on any event loop; streams come as they are made.

Making one takes as long as the model takes to load: `await AsyncLLM.start(…)` does that beside the event loop.
Next: `base.py`; `llm.py` says what the arguments mean.
"""

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

from fast_inference.core.engine.streaming import items_of
from fast_inference.offline.base import OfflineEngine, Params, num_answers_of, pairs_of
from fast_inference.offline.embed_job import EmbedJob
from fast_inference.offline.generate_job import GenerateJob
from fast_inference.offline.llm import chat_fields
from fast_inference.offline.outputs import CompletionOutput, EmbeddingRequestOutput, RequestOutput
from fast_inference.offline.progress import PromptProgress
from fast_inference.offline.prompts import Items, Message, Prompt, async_items, prompt_items
from fast_inference.offline.requester import PromptJob
from fast_inference.offline.sampling_params import SamplingParams
from fast_inference.offline.window import async_outputs_of

OutputT = TypeVar("OutputT")
ItemT = TypeVar("ItemT")
Several = Prompt | Iterable[Prompt] | AsyncIterable[Prompt]


class AsyncLLM(OfflineEngine):
    """Answers for programs with an event loop; cancelling a call stops its requests."""

    @classmethod
    async def start(cls, *args: Any, **kwargs: Any) -> Self:
        """Make one in a thread; arguments and errors are those of the class itself."""
        return await asyncio.to_thread(cls, *args, **kwargs)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.close)

    async def generate(
        self,
        prompts: Several,
        sampling_params: Params = None,
        *,
        use_tqdm: bool = False,
        adapter: str | None = None,
    ) -> list[RequestOutput]:
        """As `LLM.generate`; prompts may also come from an asynchronous iterable."""
        answers = self._answers(prompts, sampling_params, {"model": adapter}, is_chat=False, is_shown=use_tqdm)
        return await _all(answers)

    def generate_each(
        self,
        prompts: Several,
        sampling_params: Params = None,
        *,
        use_tqdm: bool = False,
        adapter: str | None = None,
    ) -> AsyncGenerator[RequestOutput, None]:
        """As `LLM.generate_each`, for `async for`; `contextlib.aclosing` ends one that is not read to its end."""
        fields = {"model": adapter}
        return self._answers(prompts, sampling_params, fields, is_chat=False, is_shown=use_tqdm, is_lazy=True)

    async def chat(
        self,
        messages: Iterable[Message] | Iterable[Sequence[Message]] | AsyncIterable[Sequence[Message]],
        sampling_params: Params = None,
        use_tqdm: bool = False,
        *,
        adapter: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> list[RequestOutput]:
        """As `LLM.chat`."""
        fields = chat_fields(adapter, tools, chat_template_kwargs, add_generation_prompt, continue_final_message)
        return await _all(self._answers(messages, sampling_params, fields, is_chat=True, is_shown=use_tqdm))

    async def embed(
        self,
        prompts: Several,
        *,
        use_tqdm: bool = False,
        adapter: str | None = None,
        dimensions: int | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """As `LLM.embed`."""
        fields = {"model": adapter, "dimensions": dimensions, "truncate_prompt_tokens": truncate_prompt_tokens}
        job, items = EmbedJob(self._requester, fields), prompt_items(async_items(prompts))
        return await _all(self._outputs(job, items, 1, is_shown=use_tqdm, is_lazy=False))

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None, *, adapter: str | None = None
    ) -> AsyncGenerator[CompletionOutput, None]:
        """The answers to one prompt in pieces: `text` and `token_ids` of each are what came since the one before.

        With `n` > 1, `index` says which answer a piece belongs to; the last piece of each has a `finish_reason`.
        """
        return self._stream(prompt, sampling_params, {"model": adapter}, is_chat=False)

    def stream_chat(
        self,
        messages: Sequence[Message],
        sampling_params: SamplingParams | None = None,
        *,
        adapter: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> AsyncGenerator[CompletionOutput, None]:
        """The same for one conversation."""
        fields = chat_fields(adapter, tools, chat_template_kwargs, add_generation_prompt, continue_final_message)
        return self._stream(messages, sampling_params, fields, is_chat=True)

    def _stream(
        self, prompt: Any, params: SamplingParams | None, fields: dict[str, Any], *, is_chat: bool
    ) -> AsyncGenerator[CompletionOutput, None]:
        def begin() -> AsyncGenerator[CompletionOutput, None]:  # with `self`: who holds the stream holds the engine
            job = GenerateJob(self._requester, fields, is_chat=is_chat)
            return job.stream((prompt, params or SamplingParams()))

        return items_of(self._client, begin)

    def _answers(
        self,
        prompts: Any,
        params: Params,
        fields: dict[str, Any],
        *,
        is_chat: bool,
        is_shown: bool,
        is_lazy: bool = False,
    ) -> AsyncGenerator[RequestOutput, None]:
        items = pairs_of(async_items(prompts), params, is_chat=is_chat)
        job = GenerateJob(self._requester, fields, is_chat=is_chat)
        return self._outputs(job, items, num_answers_of(params), is_shown=is_shown, is_lazy=is_lazy)

    async def _outputs(
        self, job: PromptJob[Any, OutputT], items: Items, num_answers: int, *, is_shown: bool, is_lazy: bool
    ) -> AsyncGenerator[OutputT, None]:
        progress = PromptProgress(len(items) if isinstance(items, list) else None, is_shown=is_shown)
        run: Callable[[Any], Coroutine[Any, Any, OutputT]] = job.prepare_and_run
        if isinstance(items, list):
            items = iter(await asyncio.wrap_future(self._client.submit(job.prepare_all(items))))
            run = job.run
        source = items if isinstance(items, AsyncIterator) else _as_async(items)
        work = self._work(run, progress.add, num_answers, is_lazy=is_lazy)
        with progress:
            async with aclosing(async_outputs_of(work, source)) as outputs:
                async for output in outputs:
                    yield output


async def _all(outputs: AsyncGenerator[OutputT, None]) -> list[OutputT]:
    async with aclosing(outputs):
        return [output async for output in outputs]


async def _as_async(items: Iterator[ItemT]) -> AsyncIterator[ItemT]:
    for item in items:
        yield item
