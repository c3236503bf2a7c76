"""`POST /tokenize` and `POST /detokenize`, in the form that vLLM gives them; nothing reaches the engine.

These cost only this process, so they are bounded here: in size, in how many work at a time, and in how many wait.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from frontend.errors import TokenizerBusyError, json_response
from frontend.input_processor import chat_text, render_chat_text
from frontend.openai.protocol import ChatCompletionRequest, DetokenizeRequest, TokenizeRequest
from frontend.openai.tool_calls import tool_values
from frontend.request_body import read_body
from frontend.state import FrontendState, ServedModel
from frontend.tokenizer import INLINE_CHARS
from ipc.errors import InvalidRequestError

MAX_RUNNING = 2
MAX_WAITING = 32
MAX_TEXT_BYTES = 2**19
"""Longest prompt in UTF-8; a byte can become a token, and tokens take a hundred times the memory."""


class OpenAIServingTokenization:
    """The tokenizer endpoints."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state
        self._slots = asyncio.Semaphore(MAX_RUNNING)
        self._num_entered = 0

    async def tokenize(self, request: Request) -> Response:
        """Token ids of a prompt, or of a conversation in the model's template.

        Raises:
            TokenizerBusyError: too many are waiting.
            FastInferenceError: the body is wrong, or there is no model.
        """
        model = self._state.model()
        async with self.slot(request):
            body, headers = await read_body(request, TokenizeRequest, self._state.large_body_slot)
            if body.model is not None:
                model.check_name(body.model)
            ids = await _token_ids(model, body)
            if len(ids) > INLINE_CHARS:
                return await asyncio.to_thread(_tokenized, model, body, ids, headers)
            return _tokenized(model, body, ids, headers)

    async def detokenize(self, request: Request) -> Response:
        """Text of token ids, with special tokens written out; raises as `tokenize` does."""
        model = self._state.model()
        async with self.slot(request):
            body, headers = await read_body(request, DetokenizeRequest, self._state.large_body_slot)
            if body.model is not None:
                model.check_name(body.model)
            if len(body.tokens) > INLINE_CHARS:
                return await asyncio.to_thread(_detokenized, model, body, headers)
            return _detokenized(model, body, headers)

    async def chat_token_ids(self, model: ServedModel, body: ChatCompletionRequest) -> list[int]:
        """Token ids of the prompt of a chat completion, of whatever length; call it in a slot."""
        text = await chat_text(model, body)
        _check_size(text, "messages")
        return await model.tokenizer.encode(text, add_special_tokens=body.add_special_tokens)

    @asynccontextmanager
    async def slot(self, request: Request) -> AsyncGenerator[None, None]:
        """One of the places to work in, for a request whose body is here: slow clients take none."""
        await request.body()
        if self._num_entered >= MAX_RUNNING + MAX_WAITING:
            raise TokenizerBusyError("Too many requests for the tokenizer are waiting; try again later.")
        self._num_entered += 1
        try:
            async with self._slots:
                yield
        finally:
            self._num_entered -= 1


async def _token_ids(model: ServedModel, body: TokenizeRequest) -> list[int]:
    if body.messages is not None:
        text = await render_chat_text(model, body.messages, replace(body.render_options, tools=tool_values(body.tools)))
        param, add_special_tokens = "messages", bool(body.add_special_tokens)
    else:
        assert body.prompt is not None
        text, param, add_special_tokens = body.prompt, "prompt", body.add_special_tokens is not False
    _check_size(text, param)
    return await model.tokenizer.encode(text, add_special_tokens=add_special_tokens)


def _check_size(text: str, param: str) -> None:
    if len(text.encode()) > MAX_TEXT_BYTES:
        raise InvalidRequestError(f"{param}: at most {MAX_TEXT_BYTES} bytes of text", param=param)


def _tokenized(model: ServedModel, body: TokenizeRequest, ids: list[int], headers: dict[str, str]) -> Response:
    strings = model.tokenizer.token_strings(ids) if body.return_token_strs else None
    answer = {"count": len(ids), "max_model_len": model.max_model_len, "tokens": ids, "token_strs": strings}
    return json_response(answer, headers=headers)


def _detokenized(model: ServedModel, body: DetokenizeRequest, headers: dict[str, str]) -> Response:
    model.check_token_ids(body.tokens, "tokens")
    return json_response({"prompt": model.tokenizer.decode_long(body.tokens)}, headers=headers)
