"""One text of an `LLM`: from its body to token ids, through the engine, to its vector.

Next: `frontend/embedder.py`, which HTTP requests go through too.
"""

from dataclasses import dataclass
from typing import Any

from fast_inference.offline.outputs import EmbeddingOutput, EmbeddingRequestOutput
from fast_inference.offline.prompts import text_and_ids
from fast_inference.offline.requester import PromptJob, Requester
from fast_inference.offline.sampling_params import Fields
from frontend.embedder import Embedder
from frontend.openai.embeddings import shortened
from frontend.openai.protocol import EmbeddingRequest
from frontend.state import ServedModel
from ipc.errors import InvalidRequestError, UnsupportedParameterError


@dataclass(frozen=True, slots=True)
class PreparedText:
    """A text whose vector could be asked for now."""

    request_id: str
    model: ServedModel
    body: EmbeddingRequest
    token_ids: tuple[int, ...]


class EmbedJob(PromptJob[PreparedText, EmbeddingRequestOutput]):
    """Texts to vectors; an item is a text or the token ids of one."""

    def __init__(self, requester: Requester, fields: Fields) -> None:
        """`fields` are further ones of each body."""
        self._requester = requester
        self._fields = {name: value for name, value in fields.items() if value is not None}

    async def prepare(self, item: Any) -> PreparedText:
        """Tokenize."""
        request_id = self._requester.next_id()
        _, given = text_and_ids(item)
        model, body = await self._requester.body(EmbeddingRequest, {**self._fields, "input": given})
        model.check_name(body.model)
        size = model.welcome.embedding_size
        if size == 0:
            raise UnsupportedParameterError("This model gives no embeddings.", param="model")
        if body.dimensions is not None and body.dimensions > size:
            raise InvalidRequestError(f"dimensions must not exceed {size}, which this model has", param="dimensions")
        [prompt] = await self._embedder(model, body).prompts([given], "input")
        return PreparedText(request_id, model, body, prompt)

    async def run(self, prepared: PreparedText) -> EmbeddingRequestOutput:
        """The vector of a text."""
        return await self._requester.insist(prepared.model, lambda: self._vector(prepared))

    async def _vector(self, prepared: PreparedText) -> EmbeddingRequestOutput:
        body = prepared.body
        self._requester.state.check_admission()
        [vector] = await self._embedder(prepared.model, body).vectors([prepared.token_ids])
        shown = vector if body.dimensions is None else shortened(vector, body.dimensions)
        ids = list(prepared.token_ids)
        return EmbeddingRequestOutput(prepared.request_id, EmbeddingOutput(shown), ids, finished=True)

    def _embedder(self, model: ServedModel, body: EmbeddingRequest) -> Embedder:
        call = self._requester.call
        return Embedder(self._requester.state.client, model, body, call.caller, call.options(""))
