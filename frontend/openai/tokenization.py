"""`POST /tokenize` and `POST /detokenize`, in the form that vLLM gives them; nothing reaches the engine."""

import asyncio

from starlette.requests import Request
from starlette.responses import Response

from frontend.errors import json_response
from frontend.input_processor import render_chat
from frontend.openai.protocol import DetokenizeRequest, TokenizeRequest
from frontend.request_body import read_body
from frontend.state import FrontendState, ServedModel
from frontend.tokenizer import INLINE_CHARS
from ipc.errors import InvalidRequestError


class OpenAIServingTokenization:
    """The tokenizer endpoints."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state

    async def tokenize(self, request: Request) -> Response:
        """Token ids of a prompt, or of a conversation in the model's template."""
        model = self._state.model()
        body, headers = await read_body(request, TokenizeRequest)
        if body.model is not None:
            model.check_name(body.model)
        ids = await _token_ids(model, body)
        strings = model.tokenizer.token_strings(ids) if body.return_token_strs else None
        answer = {"count": len(ids), "max_model_len": model.max_model_len, "tokens": ids, "token_strs": strings}
        return json_response(answer, headers=headers)

    async def detokenize(self, request: Request) -> Response:
        """Text of token ids, with special tokens written out."""
        model = self._state.model()
        body, headers = await read_body(request, DetokenizeRequest)
        if body.model is not None:
            model.check_name(body.model)
        model.check_token_ids(body.tokens, "tokens")
        if len(body.tokens) > INLINE_CHARS:
            text = await asyncio.to_thread(model.tokenizer.decode, body.tokens)
        else:
            text = model.tokenizer.decode(body.tokens)
        return json_response({"prompt": text}, headers=headers)


async def _token_ids(model: ServedModel, body: TokenizeRequest) -> list[int]:
    if (body.prompt is None) == (body.messages is None):
        raise InvalidRequestError("Give either prompt or messages.", param="prompt", code="missing_required_parameter")
    if body.messages is not None:
        return await render_chat(
            model,
            body.messages,
            add_generation_prompt=body.add_generation_prompt,
            add_special_tokens=bool(body.add_special_tokens),
            max_tokens=None,
        )
    assert body.prompt is not None
    return await model.tokenizer.encode(body.prompt, add_special_tokens=body.add_special_tokens is not False)
