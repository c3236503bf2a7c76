"""`POST /v1/embeddings`: texts or token ids in, one vector of floats for each out.

The steps are in `pooling.py`.
"""

import base64
import math
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Any

from frontend.embedder import Embedder, Vector
from frontend.openai.inputs import num_inputs, split_inputs
from frontend.openai.pooling import OpenAIServingPooling, pooling_usage, unhurried
from frontend.openai.protocol import EmbeddingRequest
from frontend.state import FrontendState, ServedModel
from ipc.errors import InvalidRequestError


class OpenAIServingEmbedding(OpenAIServingPooling[EmbeddingRequest]):
    """The embeddings endpoint."""

    id_prefix = "embd-"

    def __init__(self, state: FrontendState) -> None:
        super().__init__(state, EmbeddingRequest)

    def num_texts(self, body: EmbeddingRequest) -> int:
        """The inputs."""
        return num_inputs(body.input)

    def check(self, model: ServedModel, body: EmbeddingRequest) -> None:
        """There are no more dimensions than the model has."""
        size = model.welcome.embedding_size
        if body.dimensions is not None and body.dimensions > size:
            raise InvalidRequestError(f"dimensions must not exceed {size}, which this model has", param="dimensions")

    async def answer(self, body: EmbeddingRequest, embedder: Embedder) -> dict[str, Any]:
        """OpenAI's list of embeddings."""
        vectors = await embedder.vectors(await embedder.prompts(split_inputs(body.input), "input"))
        data = await unhurried(sum(map(len, vectors)), lambda: _data(vectors, body))
        return {
            "object": "list",
            "created": int(time.time()),
            "model": body.model,
            "data": data,
            "usage": pooling_usage(embedder),
        }


def _data(vectors: Sequence[Vector], body: EmbeddingRequest) -> list[dict[str, Any]]:
    data = []
    for index, vector in enumerate(vectors):
        shown = vector if body.dimensions is None else shortened(vector, body.dimensions)
        data.append({"object": "embedding", "index": index, "embedding": encode_vector(shown, body.encoding_format)})
    return data


def shortened(vector: Vector, dimensions: int) -> Vector:
    """The first components, scaled to length 1; where all of them are 0 they stay so."""
    first = vector[:dimensions]
    length = math.hypot(*first)
    return [value / length for value in first] if length else first


def encode_vector(vector: Vector, encoding_format: str) -> Vector | str:
    """A vector as JSON numbers, or as base64 of little-endian 32-bit floats."""
    if encoding_format == "float":
        return vector
    values = array("f", vector)
    if sys.byteorder == "big":
        values.byteswap()
    return base64.b64encode(values.tobytes()).decode("ascii")
