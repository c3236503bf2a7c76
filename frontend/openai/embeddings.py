"""`POST /v1/embeddings`: texts or token ids in, one normalized vector of floats for each out.

Inputs go to the engine as EMBED requests, no more at a time than it runs at once, so that a long list does not fill
its queue. Next: `frontend/input_processor.py`.
"""

import asyncio
import base64
import sys
from array import array
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from frontend.access import Caller, caller_of
from frontend.disconnect import run_while_connected
from frontend.errors import json_response
from frontend.input_processor import prompt_token_ids
from frontend.openai.inputs import num_inputs, split_inputs
from frontend.openai.protocol import EmbeddingRequest
from frontend.request_body import read_body
from frontend.state import FrontendState, ServedModel
from ipc.errors import RequestFailedError, UnsupportedParameterError
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

_NO_SAMPLING = SamplingParams(max_tokens=1, temperature=0.0)


class OpenAIServingEmbedding:
    """The embeddings endpoint."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state

    async def serve(self, request: Request) -> Response:
        """Answer one HTTP request.

        Raises:
            UnsupportedParameterError: the model gives no embeddings.
            FastInferenceError: the body is wrong, or the engine failed.
        """
        model = self._state.model()
        body, headers = await read_body(request, EmbeddingRequest, self._state.large_body_slot)
        model.check_name(body.model)
        if model.welcome.embedding_size == 0:
            raise UnsupportedParameterError("This model gives no embeddings.", param="model")
        self._state.check_admission(model, min(num_inputs(body.input), model.welcome.max_num_seqs))
        answer = await run_while_connected(request, self._embed(model, body, caller_of(request)))
        return json_response(answer, headers=headers)

    async def _embed(self, model: ServedModel, body: EmbeddingRequest, caller: Caller) -> dict[str, Any]:
        prompts: list[list[int]] = []
        for item in split_inputs(body.input):
            ids = await prompt_token_ids(model, item, param="input", add_special_tokens=body.add_special_tokens)
            prompts.append(ids)
            await asyncio.sleep(0)  # others go on between inputs
        slots = asyncio.Semaphore(model.welcome.max_num_seqs)
        embedding = [asyncio.create_task(self._embed_one(ids, body, caller, slots)) for ids in prompts]
        try:
            vectors = await asyncio.gather(*embedding)
        finally:
            for task in embedding:
                task.cancel()
        num_tokens = sum(map(len, prompts))
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": encode_vector(vector, body.encoding_format)}
                for index, vector in enumerate(vectors)
            ],
            "model": body.model,
            "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
        }

    async def _embed_one(
        self, ids: list[int], body: EmbeddingRequest, caller: Caller, slots: asyncio.Semaphore
    ) -> list[float]:
        async with slots:
            stream = self._state.client.submit(
                ids,
                _NO_SAMPLING,
                task=Task.EMBED,
                priority=body.priority,
                flow=caller.flow(body.user),
                cache_salt=caller.cache_salt(body.cache_salt),
            )
            try:
                async for output in stream:
                    if output.embedding is not None:
                        return output.embedding
            finally:
                stream.abort("closed")
        raise RequestFailedError("the engine gave no embedding")


def encode_vector(vector: list[float], encoding_format: str) -> list[float] | str:
    """A vector as JSON numbers, or as base64 of little-endian 32-bit floats."""
    if encoding_format == "float":
        return vector
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode("ascii")
