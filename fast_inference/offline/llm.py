"""`LLM`: many prompts, conversations or texts in one call, answered in their order; see `fast_inference.offline`.

Everything may be called from any thread, also inside a running event loop (a notebook). Ctrl-C stops the requests.
Next: `base.py`; `async_llm.py` is the same for `await`.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from fast_inference.core.engine.waiting import answer_of
from fast_inference.offline.base import OfflineEngine, Params, num_answers_of, pairs_of
from fast_inference.offline.embed_job import EmbedJob
from fast_inference.offline.generate_job import GenerateJob
from fast_inference.offline.outputs import EmbeddingRequestOutput, RequestOutput
from fast_inference.offline.progress import PromptProgress
from fast_inference.offline.prompts import Items, Message, Prompt, prompt_items
from fast_inference.offline.requester import PromptJob
from fast_inference.offline.window import outputs_of
from ipc.errors import InvalidRequestError

OutputT = TypeVar("OutputT")


class LLM(OfflineEngine):
    """Answers from Python, whole and in order."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def generate(
        self,
        prompts: Prompt | Iterable[Prompt],
        sampling_params: Params = None,
        *,
        use_tqdm: bool = True,
        adapter: str | None = None,
    ) -> list[RequestOutput]:
        """Continue prompts.

        Args:
            prompts: one or several; each is a text, token ids, `{"prompt": text}` or `{"prompt_token_ids": ids}`. Of a
                list all are checked before any of them runs; any other iterable is read as answers make room.
            sampling_params: for all of them, or a list with one for each.
            use_tqdm: show on stderr how far it is.
            adapter: name of a LoRA adapter; the model itself where not given.

        Raises:
            InvalidRequestError: a parameter or a prompt is wrong; `ContextLengthError`: it is too long.
            EngineUnavailableError: the engine is closed, has failed, or its server has ended.
            ServerError: a prompt failed in the engine. The others are stopped in each case.
        """
        return list(self._answers(prompts, sampling_params, {"model": adapter}, is_chat=False, is_shown=use_tqdm))

    def generate_each(
        self,
        prompts: Prompt | Iterable[Prompt],
        sampling_params: Params = None,
        *,
        use_tqdm: bool = True,
        adapter: str | None = None,
    ) -> Iterator[RequestOutput]:
        """`generate`, one output after the other as soon as its turn comes; who stops reading stops the rest.

        With prompts from an iterator, memory does not grow with their number.
        """
        fields = {"model": adapter}
        return self._answers(prompts, sampling_params, fields, is_chat=False, is_shown=use_tqdm, is_lazy=True)

    def chat(
        self,
        messages: Iterable[Message] | Iterable[Sequence[Message]],
        sampling_params: Params = None,
        use_tqdm: bool = True,
        *,
        adapter: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        add_generation_prompt: bool | None = None,
        continue_final_message: bool = False,
    ) -> list[RequestOutput]:
        """Answer a conversation, or several; the texts are as the model writes them, with reasoning and tool calls.

        Args:
            messages: a list of messages, or an iterable of such lists.
            sampling_params, use_tqdm, adapter: as those of `generate`.
            tools: functions that an answer may call, as in the HTTP API.
            chat_template_kwargs: values for variables of the model's chat template.
            add_generation_prompt, continue_final_message: how a conversation ends, as in the HTTP API.

        Raises as `generate` does.
        """
        fields = chat_fields(adapter, tools, chat_template_kwargs, add_generation_prompt, continue_final_message)
        return list(self._answers(messages, sampling_params, fields, is_chat=True, is_shown=use_tqdm))

    def embed(
        self,
        prompts: Prompt | Iterable[Prompt],
        *,
        use_tqdm: bool = True,
        adapter: str | None = None,
        dimensions: int | None = None,
        truncate_prompt_tokens: int | None = None,
    ) -> list[EmbeddingRequestOutput]:
        """The vector of each text.

        Args:
            prompts, use_tqdm, adapter: as those of `generate`.
            dimensions: only so many first components, scaled to length 1 again.
            truncate_prompt_tokens: only so many last tokens of a text; -1 for as many as the context has room for.

        Raises as `generate` does, and `UnsupportedParameterError` where the model gives no embeddings.
        """
        fields = {"model": adapter, "dimensions": dimensions, "truncate_prompt_tokens": truncate_prompt_tokens}
        job = EmbedJob(self._requester, fields)
        return list(self._outputs(job, prompt_items(prompts), 1, is_shown=use_tqdm, is_lazy=False))

    def _answers(
        self,
        prompts: Any,
        params: Params,
        fields: dict[str, Any],
        *,
        is_chat: bool,
        is_shown: bool,
        is_lazy: bool = False,
    ) -> Iterator[RequestOutput]:
        items = pairs_of(prompts, params, is_chat=is_chat)
        job = GenerateJob(self._requester, fields, is_chat=is_chat)
        return self._outputs(job, items, num_answers_of(params), is_shown=is_shown, is_lazy=is_lazy)

    def _outputs(
        self, job: PromptJob[Any, OutputT], items: Items, num_answers: int, *, is_shown: bool, is_lazy: bool
    ) -> Iterator[OutputT]:
        """Prepares a list at once, and reads an iterator later."""
        if isinstance(items, AsyncIterator):
            raise InvalidRequestError("prompts: an asynchronous iterable is for AsyncLLM", param="prompts")
        progress = PromptProgress(len(items) if isinstance(items, list) else None, is_shown=is_shown)
        run: Callable[[Any], Coroutine[Any, Any, OutputT]] = job.prepare_and_run
        if isinstance(items, list):
            preparing = self._client.submit(job.prepare_all(items))
            try:
                prepared = answer_of(preparing)
            finally:
                preparing.cancel()  # where we were interrupted
            items, run = iter(prepared), job.run
        work = self._work(run, progress.add, num_answers, is_lazy=is_lazy)
        return self._shown(outputs_of(work, items), progress)

    def _shown(self, outputs: Iterator[OutputT], progress: PromptProgress) -> Iterator[OutputT]:
        """A method, so that whoever holds the outputs holds the engine."""
        with progress:
            yield from outputs


def chat_fields(
    adapter: str | None,
    tools: Sequence[Mapping[str, Any]] | None,
    chat_template_kwargs: Mapping[str, Any] | None,
    add_generation_prompt: bool | None,
    continue_final_message: bool,
) -> dict[str, Any]:
    """The fields of a chat's body that are no parameters of sampling."""
    return {
        "model": adapter,
        "tools": None if tools is None else [dict(tool) for tool in tools],
        "chat_template_kwargs": None if chat_template_kwargs is None else dict(chat_template_kwargs),
        "add_generation_prompt": add_generation_prompt,
        "continue_final_message": continue_final_message,
    }
