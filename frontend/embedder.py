"""From texts or token ids to vectors, through EMBED requests of the engine: for embeddings, scores and rankings.

An `Embedder` serves one HTTP request. Its prompts go to the engine a bounded number at a time, so that a long list does
not fill its queue, and equal prompts go once. Invariant: however `vectors` ends (done, error, time over,
client gone), no request of it runs on in the core. Used by `openai/pooling.py`.
"""

import asyncio
from collections.abc import Sequence

from frontend.access import Caller
from frontend.errors import RequestCancelledError
from frontend.input_processor import last_tokens, max_text_tokens
from frontend.openai.protocol import PoolingBody
from frontend.state import ServedModel
from frontend.tracing import MAX_TRACED_ANSWERS
from ipc.client import EngineClient
from ipc.errors import ContextLengthError, InvalidRequestError, RequestFailedError
from ipc.messages import CANCELLED, DISCONNECT, Task
from ipc.placement import Capacity
from ipc.request_options import RequestOptions
from ipc.sampling_params import SamplingParams

Vector = list[float]
Prompt = tuple[int, ...]

_NO_SAMPLING = SamplingParams(max_tokens=1, temperature=0.0)


def num_at_once(capacity: Capacity) -> int:
    """Most prompts of one body that are in the engine: those that it runs at once, and some that wait behind them.

    While more are to come, the engine thus never runs empty between two steps, when it answers CANCEL.
    """
    return capacity.max_num_seqs + min(capacity.max_num_seqs, capacity.max_queued_requests // 4)


class Embedder:
    """Makes the vectors of one body."""

    def __init__(
        self,
        client: EngineClient,
        model: ServedModel,
        body: PoolingBody,
        caller: Caller,
        options: RequestOptions,
        traceparent: str = "",
    ) -> None:
        """`traceparent` goes with the first prompts."""
        self._client = client
        self._model = model
        self._body = body
        self._options = RequestOptions(
            task=Task.EMBED,
            priority=body.priority,
            flow=caller.flow(body.user),
            cache_salt=caller.cache_salt(body.cache_salt),
            adapter=model.adapter_of(body.model),
        )
        self._options.update(options)
        self._traceparents = [traceparent] * MAX_TRACED_ANSWERS
        self._slots = asyncio.Semaphore(num_at_once(client.capacity))
        self.num_tokens = 0
        """Tokens of all prompts that `prompts` has made, each as often as it was given."""

    async def prompts(self, inputs: Sequence[str | list[int]], param: str) -> list[Prompt]:
        """Token ids of each input.

        Raises:
            InvalidRequestError, ContextLengthError: one has no tokens, unknown ones, or too many; `param` is the field.
        """
        made: list[Prompt] = []
        for item in inputs:
            made.append(tuple(await self._prompt(item, param)))
            self.num_tokens += len(made[-1])
            await asyncio.sleep(0)  # others go on between inputs
        return made

    async def vectors(self, prompts: Sequence[Prompt]) -> list[Vector]:
        """The vector of each prompt.

        Raises:
            RequestCancelledError: one was cancelled by its id.
            FastInferenceError: the engine refused one, or failed. The others are stopped in each case.
        """
        embedding = {ids: asyncio.create_task(self._vector(ids)) for ids in dict.fromkeys(prompts)}
        try:
            await asyncio.gather(*embedding.values())
        finally:
            for task in embedding.values():
                task.cancel()
        return [embedding[ids].result() for ids in prompts]

    async def _prompt(self, item: str | list[int], param: str) -> list[int]:
        limit, most = self._body.truncate_prompt_tokens, self._model.max_model_len
        if isinstance(item, str):
            ids = await self._model.tokenizer.encode(
                item,
                add_special_tokens=self._body.add_special_tokens,
                max_tokens=max_text_tokens(self._model, is_cut=limit is not None),
                param=param,
            )
        else:
            ids = item
        if limit is not None:
            is_wrapped = isinstance(item, str) and self._body.add_special_tokens
            ids = self._cut(ids, limit, self._model.tokenizer.num_tokens_around if is_wrapped else (0, 0))
        if not ids:
            raise InvalidRequestError(f"{param}: no tokens remain of this text", param=param)
        if len(ids) > most:
            raise ContextLengthError(
                f"This model's maximum context length is {most} tokens, but the text has {len(ids)}.", param=param
            )
        if not isinstance(item, str):
            self._model.check_token_ids(ids, param)
        return ids

    def _cut(self, ids: list[int], limit: int, num_around: tuple[int, int]) -> list[int]:
        """`limit` tokens of a text, those around it included, as long as there is room for them."""
        num_kept = len(last_tokens(self._model, ids, limit, self._model.max_model_len))
        num_before, num_behind = num_around if num_kept > sum(num_around) else (0, 0)
        end, num_inner = len(ids) - num_behind, num_kept - num_before - num_behind
        inner = ids[end - num_inner : end]
        if self._body.truncation_side == "right":
            inner = ids[num_before : num_before + num_inner]
        return [*ids[:num_before], *inner, *ids[end:]]

    async def _vector(self, ids: Prompt) -> Vector:
        async with self._slots:
            self._options["traceparent"] = self._traceparents.pop() if self._traceparents else ""
            stream = self._client.submit(ids, _NO_SAMPLING, model=self._model.welcome, **self._options)
            try:
                async for output in stream:
                    if output.embedding is not None:
                        return output.embedding
                    if output.finished is not None and output.finished.error_code == CANCELLED:
                        raise RequestCancelledError()
            finally:
                stream.abort(DISCONNECT)
        raise RequestFailedError("the engine gave no embedding")
