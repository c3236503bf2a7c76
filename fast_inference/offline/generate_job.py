"""One prompt or conversation of an `LLM`: from its body to token ids, through the engine, to its answers.

Next: `frontend/input_processor.py`, `frontend/generation.py`, which HTTP requests go through too.
"""

from array import array
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fast_inference.offline.outputs import CompletionOutput, RequestOutput, completion_output, position_logprobs
from fast_inference.offline.prompts import text_and_ids
from fast_inference.offline.requester import PromptJob, Requester
from fast_inference.offline.sampling_params import Fields, SamplingParams
from frontend.generation import Answer, Generation
from frontend.input_processor import EngineInput, chat_inputs, check_num_answers, completion_inputs
from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest
from frontend.openai.serving import OpenAIServing
from frontend.request_limits import check_limits
from frontend.state import ServedModel
from ipc.errors import InvalidRequestError
from ipc.sampling_params import SamplingParams as EngineParams


@dataclass(frozen=True, slots=True)
class PreparedPrompt:
    """A prompt that could be asked now."""

    request_id: str
    model: ServedModel
    serving: OpenAIServing[Any]
    body: Any
    text: str | None
    token_ids: "array[int]"
    """Of the prompt; 4 bytes each, because there may be many prompts."""
    params: tuple[EngineParams, ...]
    """One for each answer."""


class GenerateJob(PromptJob[PreparedPrompt, RequestOutput]):
    """Texts or conversations to answers; an item is a pair of one and its parameters."""

    def __init__(self, requester: Requester, fields: Fields, *, is_chat: bool) -> None:
        """`fields` are further ones of each body."""
        self._requester = requester
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._is_chat = is_chat

    async def prepare(self, item: tuple[Any, SamplingParams]) -> PreparedPrompt:
        """Tokenize; a conversation is written in the model's chat template before."""
        request_id = self._requester.next_id()
        prompt, params = item
        prepare = self._prepare_chat if self._is_chat else self._prepare_text
        return await prepare(request_id, prompt, params)

    async def _prepare_text(self, request_id: str, prompt: Any, params: SamplingParams) -> PreparedPrompt:
        text, given = text_and_ids(prompt)
        model, body = await self._requester.body(
            CompletionRequest, {**params.completion_fields(), **self._fields, "prompt": given}
        )
        inputs = await completion_inputs(model, body, default_max_tokens=model.max_model_len)
        return self._prepared(request_id, model, self._requester.completion, body, inputs, text)

    async def _prepare_chat(self, request_id: str, messages: Any, params: SamplingParams) -> PreparedPrompt:
        if not isinstance(messages, list | tuple):
            raise InvalidRequestError("messages: a conversation is a list of messages", param="messages")
        conversation = [dict(message) if isinstance(message, Mapping) else message for message in messages]
        fields = {**params.chat_fields(), **self._fields, "messages": conversation}
        model, body = await self._requester.body(ChatCompletionRequest, fields)
        return self._prepared(request_id, model, self._requester.chat, body, await chat_inputs(model, body), None)

    def _prepared(
        self,
        request_id: str,
        model: ServedModel,
        serving: OpenAIServing[Any],
        body: Any,
        inputs: list[EngineInput],
        text: str | None,
    ) -> PreparedPrompt:
        model.check_name(body.model)
        model.check_can_generate()
        check_num_answers(body)
        check_limits(body, inputs, is_kept=True)
        shown = inputs[0].prompt_text if text is None or body.truncate_prompt_tokens is not None else text
        token_ids = array("i", inputs[0].prompt_token_ids)
        params = tuple(item.sampling_params for item in inputs)
        return PreparedPrompt(request_id, model, serving, body, shown, token_ids, params)

    async def run(self, prepared: PreparedPrompt) -> RequestOutput:
        """All answers to a prompt, whole."""
        return await self._requester.insist(prepared.model, lambda: self._answers(prepared))

    async def _answers(self, prepared: PreparedPrompt) -> RequestOutput:
        generation = self._generation(prepared)
        try:
            answers = await generation.collect()
            return self._output(prepared, generation, answers)
        finally:
            generation.close()

    async def stream(self, item: tuple[Any, SamplingParams]) -> AsyncGenerator[CompletionOutput, None]:
        """The answers to one item in pieces, as they come."""
        prepared = await self.prepare(item)
        begun = await self._requester.insist(prepared.model, lambda: self._begun(prepared))
        try:
            num_given = [0] * len(prepared.params)
            async with aclosing(begun.deltas()) as deltas:
                async for index, delta in deltas:
                    answer = begun.answers[index]
                    token_ids, rows = begun.token_ids(index, num_given[index]), None
                    if prepared.body.num_logprobs is not None:
                        token_ids = [token.token_id for token in delta.tokens]
                        rows = [token.logprobs for token in delta.tokens if token.logprobs is not None]
                    num_given[index] += len(token_ids)
                    if delta.text or token_ids or delta.finish is not None:
                        texts = prepared.model.tokenizer.token_texts
                        yield completion_output(answer, delta.text, token_ids, rows, texts)
        finally:
            begun.close()

    async def _begun(self, prepared: PreparedPrompt) -> Generation:
        generation = self._generation(prepared)
        try:
            await generation.prime()
        except BaseException:
            generation.close()
            raise
        return generation

    def _generation(self, prepared: PreparedPrompt) -> Generation:
        state, serving, model, body = self._requester.state, prepared.serving, prepared.model, prepared.body
        state.check_admission(len(prepared.params))
        ids = prepared.token_ids.tolist()
        inputs = [EngineInput(ids, params, prepared.text) for params in prepared.params]
        options = serving.options(self._requester.call, model, body, "")
        return Generation(state.client, model, inputs, serving.text_options(model, body, inputs), **options)

    def _output(self, prepared: PreparedPrompt, generation: Generation, answers: list[Answer]) -> RequestOutput:
        texts, body = prepared.model.tokenizer.token_texts, prepared.body
        outputs = []
        for answer in answers:
            rows = None
            if body.num_logprobs is not None:
                rows = [token.logprobs for token in answer.tokens if token.logprobs is not None]
            ids = generation.token_ids(answer.index)
            outputs.append(completion_output(answer, answer.text, ids, rows, texts))
        prompt_logprobs = None
        if body.prompt_logprobs is not None:
            prompt_logprobs = [None, *(position_logprobs(row, texts) for row in answers[0].prompt_logprobs)]
        return RequestOutput(
            request_id=prepared.request_id,
            prompt=prepared.text,
            prompt_token_ids=prepared.token_ids.tolist(),
            prompt_logprobs=prompt_logprobs,
            outputs=outputs,
            finished=True,
            num_cached_tokens=answers[0].num_cached_tokens,
        )
