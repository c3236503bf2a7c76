"""`POST /v1/score` and `POST /v1/rerank`: how similar texts are, as the cosine of their embeddings.

Requests and answers have vLLM's form; rankings are also those of Jina and Cohere. A score lies between -1 and 1. The
steps are in `pooling.py`.
"""

import math
import time
from collections.abc import Sequence
from operator import mul
from typing import Any

from frontend.embedder import Embedder, Vector
from frontend.openai.pooling import OpenAIServingPooling, pooling_usage, unhurried
from frontend.openai.protocol import RerankRequest, ScoreRequest
from frontend.state import FrontendState, ServedModel


class OpenAIServingScore(OpenAIServingPooling[ScoreRequest]):
    """The score endpoint."""

    id_prefix = "score-"

    def __init__(self, state: FrontendState) -> None:
        super().__init__(state, ScoreRequest)

    def num_texts(self, body: ScoreRequest) -> int:
        """Both sides."""
        return sum(len(body.texts_of(side)) for side in body.sides)

    def check(self, model: ServedModel, body: ScoreRequest) -> None:
        """Any model that makes vectors will do."""

    async def answer(self, body: ScoreRequest, embedder: Embedder) -> dict[str, Any]:
        """One score for each text of the second side."""
        left, right = [await embedder.prompts(body.texts_of(side), side) for side in body.sides]
        scores = await _similarities(embedder, left, right)
        return {
            "object": "list",
            "created": int(time.time()),
            "model": body.model,
            "data": [{"index": index, "object": "score", "score": score} for index, score in enumerate(scores)],
            "usage": pooling_usage(embedder),
        }


class OpenAIServingRerank(OpenAIServingPooling[RerankRequest]):
    """The rerank endpoint."""

    id_prefix = "rerank-"

    def __init__(self, state: FrontendState) -> None:
        super().__init__(state, RerankRequest)

    def num_texts(self, body: RerankRequest) -> int:
        """The query and the documents."""
        return 1 + len(body.documents)

    def check(self, model: ServedModel, body: RerankRequest) -> None:
        """Any model that makes vectors will do."""

    async def answer(self, body: RerankRequest, embedder: Embedder) -> dict[str, Any]:
        """The best documents, best first; of equal ones the first comes first."""
        texts = body.texts
        query = await embedder.prompts([body.query], "query")
        scores = await _similarities(embedder, query, await embedder.prompts(texts, "documents"))
        ranked = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
        results: list[dict[str, Any]] = []
        for index in ranked:
            document = {"document": {"text": texts[index]}} if body.return_documents else {}
            results.append({"index": index, "relevance_score": scores[index], **document})
        return {
            "model": body.model,
            "results": results,
            "usage": pooling_usage(embedder),
        }


async def _similarities(
    embedder: Embedder, left: Sequence[tuple[int, ...]], right: Sequence[tuple[int, ...]]
) -> list[float]:
    """The cosine of each pair; one on the left stands for as many as there are on the right."""
    vectors = await embedder.vectors([*left, *right])
    lefts = vectors[: len(left)] if len(left) == len(right) else vectors[:1] * len(right)
    rights = vectors[len(left) :]
    return await unhurried(
        sum(map(len, rights)), lambda: [cosine(one, other) for one, other in zip(lefts, rights, strict=True)]
    )


def cosine(left: Vector, right: Vector) -> float:
    """Of two vectors of any length, 0 where one has none; between -1 and 1, however their last digits were rounded."""
    lengths = math.hypot(*left) * math.hypot(*right)
    product: float = sum(map(mul, left, right))
    return max(-1.0, min(1.0, product / lengths)) if lengths else 0.0
