"""The bodies of `POST /v1/score` and `POST /v1/rerank`: texts to compare, in vLLM's, Jina's and Cohere's names."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from frontend.openai.inputs import MAX_INPUTS
from frontend.openai.protocol.body import Body
from frontend.openai.protocol.generation import MAX_INT32
from frontend.openai.protocol.pooling import PoolingBody
from frontend.openai.unsupported import Unsupported
from ipc.errors import InvalidRequestError


class RerankDocument(Body):
    """A document as an object."""

    text: str


def _check_texts(texts: Any) -> str | list[str]:
    if not isinstance(texts, str | list):
        raise PydanticCustomError("texts_type", "must be a string or a list of strings")
    items = [texts] if isinstance(texts, str) else texts
    _check_number(items)
    for index, item in enumerate(items):
        _check_text(index, item)
    return texts


def _check_documents(documents: Any) -> list[str | RerankDocument]:
    if not isinstance(documents, list):
        raise PydanticCustomError("documents_type", "must be a list of strings, or of objects with a text")
    _check_number(documents)
    for index, item in enumerate(documents):
        _check_text(index, item.get("text") if isinstance(item, dict) else item)
    return [RerankDocument.model_construct(text=item["text"]) if isinstance(item, dict) else item for item in documents]


def _check_number(items: list[Any]) -> None:
    if not 1 <= len(items) <= MAX_INPUTS:
        raise ValueError(f"1 to {MAX_INPUTS} texts are needed")


def _check_text(index: int, text: Any) -> None:
    """Items are checked one by one, up to the first wrong one; pydantic's unions would report each."""
    if not isinstance(text, str):
        raise PydanticCustomError("texts_type", "item {index} is no text", {"index": index})
    if not text:
        raise ValueError(f"item {index} is empty")


Texts = Annotated[str | list[str], SkipValidation, AfterValidator(_check_texts)]
Documents = Annotated[list[str | RerankDocument], SkipValidation, AfterValidator(_check_documents)]

_REFUSED = {
    "dimensions": Unsupported((), "shorter vectors"),
    "activation": Unsupported((False,), "an older name of `use_activation`"),
    "softmax": Unsupported((False,), "an older name of `use_activation`"),
    "use_activation": Unsupported((False,), "a function over the scores of a classifier; these are cosines"),
    "mm_processor_kwargs": Unsupported(({},), "options for images"),
}
_HARMLESS = {"request_id": "the answer has an id of its own"}


class ScoreRequest(PoolingBody):
    """Body of `POST /v1/score`."""

    text_1: Texts
    """A text that is compared to each of `text_2`, or as many texts as those, compared pair by pair."""
    text_2: Texts
    """A text, or several."""

    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = _REFUSED
    harmless_parameters: ClassVar[Mapping[str, str]] = _HARMLESS

    @model_validator(mode="after")
    def _check_numbers(self) -> "ScoreRequest":
        num_left, num_right = len(self.left_texts), len(self.right_texts)
        if num_left not in (1, num_right):
            raise InvalidRequestError(
                f"text_1 has {num_left} texts and text_2 has {num_right}: give one text, or as many as text_2 has",
                param="text_1",
            )
        return self

    @property
    def left_texts(self) -> list[str]:
        """`text_1` as a list."""
        return [self.text_1] if isinstance(self.text_1, str) else self.text_1

    @property
    def right_texts(self) -> list[str]:
        """`text_2` as a list."""
        return [self.text_2] if isinstance(self.text_2, str) else self.text_2


class RerankRequest(PoolingBody):
    """Body of `POST /v1/rerank`."""

    query: str = Field(min_length=1)
    """What the documents are compared to."""
    documents: Documents
    """Texts, or objects with a `text`."""
    top_n: int | None = Field(None, ge=1, le=MAX_INT32)
    """Only this many best documents come; all by default."""
    return_documents: bool = True
    """The texts of the documents come with their scores."""

    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = {
        **_REFUSED,
        "max_chunks_per_doc": Unsupported((), "cutting documents into pieces"),
        "max_tokens_per_doc": Unsupported((), "cutting off the end of documents; see `truncate_prompt_tokens`"),
        "rank_fields": Unsupported((["text"],), "documents of several fields"),
        "return_embeddings": Unsupported((False,), "the vectors of the documents"),
        "truncation": Unsupported((False,), "cutting off the end of documents; see `truncate_prompt_tokens`"),
    }
    harmless_parameters: ClassVar[Mapping[str, str]] = _HARMLESS

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [item if isinstance(item, str) else item.text for item in self.documents]
