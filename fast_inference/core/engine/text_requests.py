"""What a Python caller asks of an engine, as the requests that the HTTP API would make of it.

The keywords are the fields of the API's bodies and are checked by these, so that defaults, ranges and errors are the
same. Runs on the event loop of `client_thread.py`. Invariant: however a call ends, no request of it runs on.
Next: `frontend/input_processor.py`, `frontend/generation.py`.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

from frontend.access import ANYBODY
from frontend.api_call import ApiCall
from frontend.embedder import Embedder, num_at_once
from frontend.generation import Answer, Generation
from frontend.input_processor import check_num_answers
from frontend.openai.chat_completions import OpenAIServingChat
from frontend.openai.completions import OpenAIServingCompletion
from frontend.openai.inputs import MAX_PROMPTS, split_inputs
from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest, EmbeddingRequest, GenerationBody
from frontend.openai.protocol.body import Body
from frontend.openai.serving import OpenAIServing
from frontend.request_body import check_fields, ignored_params, validate_body
from frontend.state import FrontendState, ServedModel
from ipc.errors import InvalidRequestError
from ipc.request_options import RequestOptions

BodyT = TypeVar("BodyT", bound=Body)
GenerationT = TypeVar("GenerationT", bound=GenerationBody)
Fields = dict[str, Any]
"""Of a body, by name."""


class TextRequests:
    """The requests of one engine's callers."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state
        self._completion = OpenAIServingCompletion(state)
        self._chat = OpenAIServingChat(state)

    async def complete(self, fields: Fields) -> list[Answer]:
        """One answer to each prompt, whole; of many, a bounded number is in the engine at a time.

        Raises:
            FastInferenceError: as the HTTP endpoint does; the others are stopped then.
        """
        bodies = [self._body(CompletionRequest, {**fields, "prompt": part}) for part in _parts(fields["prompt"])]
        slots = asyncio.Semaphore(num_at_once(self._state.client.capacity))

        async def answer(model: ServedModel, body: CompletionRequest, prompt: str | list[int]) -> Answer:
            async with slots:
                [answer] = await self._collect(self._completion, model, body.model_copy(update={"prompt": prompt}))
            return answer

        tasks = [
            asyncio.create_task(answer(model, body, prompt))
            for model, body in bodies
            for prompt in split_inputs(body.prompt)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def chat(self, fields: Fields) -> Answer:
        """The answer to a conversation; raises as `complete` does."""
        model, body = self._body(ChatCompletionRequest, fields)
        [answer] = await self._collect(self._chat, model, body)
        return answer

    async def stream_completion(self, fields: Fields) -> AsyncGenerator[str, None]:
        """The answer to one prompt in pieces, none of them empty; raises as `complete` does."""
        model, body = self._body(CompletionRequest, fields)
        async for text in self._stream(self._completion, model, body):
            yield text

    async def stream_chat(self, fields: Fields) -> AsyncGenerator[str, None]:
        """The same for a conversation."""
        model, body = self._body(ChatCompletionRequest, fields)
        async for text in self._stream(self._chat, model, body):
            yield text

    async def embed(self, fields: Fields) -> list[list[float]]:
        """The vector of each input; raises as `complete` does."""
        model, body = self._body(EmbeddingRequest, fields)
        if not model.welcome.embedding_size:
            raise InvalidRequestError("This model gives no embeddings.", code="unsupported_parameter")
        embedder = Embedder(self._state.client, model, body, ANYBODY, RequestOptions())
        return await embedder.vectors(await embedder.prompts(split_inputs(body.input), "input"))

    def _body(self, body_type: type[BodyT], fields: Fields) -> tuple[ServedModel, BodyT]:
        model = self._state.model()
        values = {"model": model.names[0], **fields}
        body = validate_body(body_type, values)
        check_fields(body_type, values)
        if unknown := ignored_params(values, body_type):
            raise InvalidRequestError(f"Unknown parameter: {unknown[0]}.", param=unknown[0], code="unknown_parameter")
        model.check_name(values["model"])
        if isinstance(body, GenerationBody) and body.answers_per_prompt != 1:
            raise InvalidRequestError("n: an engine gives one answer to each prompt", param="n")
        return model, body

    async def _begin(self, serving: OpenAIServing[GenerationT], model: ServedModel, body: GenerationT) -> Generation:
        check_num_answers(body)
        self._state.check_admission(body.num_answers)
        inputs = await serving.engine_inputs(model, body)
        options = serving.options(ApiCall(), model, body, "")
        return Generation(self._state.client, model, inputs, serving.text_options(model, body, inputs), **options)

    async def _collect(
        self, serving: OpenAIServing[GenerationT], model: ServedModel, body: GenerationT
    ) -> list[Answer]:
        generation = await self._begin(serving, model, body)
        try:
            return await generation.collect()
        finally:
            generation.close()

    async def _stream(
        self, serving: OpenAIServing[GenerationT], model: ServedModel, body: GenerationT
    ) -> AsyncGenerator[str, None]:
        generation = await self._begin(serving, model, body)
        try:
            async with aclosing(generation.deltas()) as deltas:
                async for _, delta in deltas:
                    if delta.text:
                        yield delta.text
        finally:
            generation.close()


def _parts(prompts: Any) -> list[Any]:
    """Prompts in lists that a body may have."""
    if isinstance(prompts, str) or len(prompts) <= MAX_PROMPTS or isinstance(prompts[0], int):
        return [prompts]
    return [prompts[start : start + MAX_PROMPTS] for start in range(0, len(prompts), MAX_PROMPTS)]
