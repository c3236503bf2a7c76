"""`POST /v1/chat/completions/render`, `POST /v1/completions/render`: what the engine would get; nothing reaches it.

The bodies are those of the endpoints without `/render`, with the same checks, limits and errors. Answers have vLLM's
fields and the text besides; work is bounded by the places of the tokenizer endpoints (`tokenization.py`).
"""

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from frontend.errors import json_response
from frontend.input_processor import EngineInput, chat_inputs, check_num_answers, completion_inputs
from frontend.openai.protocol import ChatCompletionRequest, CompletionRequest, GenerationBody
from frontend.openai.tokenization import OpenAIServingTokenization
from frontend.request_body import read_body
from frontend.request_limits import check_limits
from frontend.state import FrontendState, ServedModel
from ipc.errors import InvalidRequestError

MAX_RENDERED_TOKENS = 2**19
"""Most tokens of one answer, whatever the number of prompts."""


class OpenAIServingRender:
    """The render endpoints."""

    def __init__(self, state: FrontendState, tokenization: OpenAIServingTokenization) -> None:
        self._state = state
        self._tokenization = tokenization

    async def chat(self, request: Request) -> Response:
        """The prompt of a chat completion.

        Raises:
            TokenizerBusyError: too many are waiting.
            FastInferenceError: what the chat completion itself would be refused with, or there is no model.
        """
        model = self._state.model()
        async with self._tokenization.slot(request):
            body, headers = await read_body(request, ChatCompletionRequest, self._state.large_body_slot)
            _check(model, body)
            inputs = await chat_inputs(model, body)
            check_limits(body, inputs, is_kept=not body.stream)
            answers = await asyncio.to_thread(_rendered, model, body, inputs[:1], "chatcmpl-")
            return json_response(answers[0], headers=headers)

    async def completion(self, request: Request) -> Response:
        """The prompts of a text completion, in order; raises as `chat` does."""
        model = self._state.model()
        async with self._tokenization.slot(request):
            body, headers = await read_body(request, CompletionRequest, self._state.large_body_slot)
            _check(model, body)
            inputs = await completion_inputs(model, body)
            check_limits(body, inputs, is_kept=not body.stream)
            prompts = inputs[:: body.answers_per_prompt]
            return await asyncio.to_thread(_list_response, model, body, prompts, headers)


def _check(model: ServedModel, body: GenerationBody) -> None:
    model.check_name(body.model)
    check_num_answers(body)


def _list_response(
    model: ServedModel, body: GenerationBody, inputs: Sequence[EngineInput], headers: dict[str, str]
) -> Response:
    return json_response(_rendered(model, body, inputs, "cmpl-"), headers=headers)


def _rendered(
    model: ServedModel, body: GenerationBody, inputs: Sequence[EngineInput], id_prefix: str
) -> list[dict[str, Any]]:
    """One object for each prompt; what it has of the sampling is what its first answer is drawn with."""
    if sum(len(item.prompt_token_ids) for item in inputs) > MAX_RENDERED_TOKENS:
        raise InvalidRequestError(f"at most {MAX_RENDERED_TOKENS} tokens can be shown", param="prompt")
    tokenizer = model.tokenizer
    request_id = id_prefix + (body.request_id or uuid.uuid4().hex)
    return [
        {
            "request_id": request_id if len(inputs) == 1 else f"{request_id}-{index}",
            "model": body.model,
            "prompt": item.prompt_text
            if item.prompt_text is not None
            else tokenizer.decode_long(item.prompt_token_ids),
            "token_ids": item.prompt_token_ids,
            "sampling_params": _sampling_params(body, item),
            "stream": body.stream,
            "cache_salt": body.cache_salt or None,
            "priority": body.priority,
        }
        for index, item in enumerate(inputs)
    ]


def _sampling_params(body: GenerationBody, item: EngineInput) -> dict[str, Any]:
    params = item.sampling_params
    values = {field.name: getattr(params, field.name) for field in fields(params)}
    values["seed"] = body.seed  # without one, each request draws its own
    values["stop"] = list(body.stop_strings)
    values["logit_bias"] = {str(bias.token_id): bias.bias for bias in params.logit_bias}
    grammar = params.structured_output
    values["structured_output"] = {"kind": grammar.kind.name.lower(), "spec": grammar.spec} if grammar else None
    return {"n": body.n, **values}
