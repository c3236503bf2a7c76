"""The bodies of `POST /v1/score` and `POST /v1/rerank`: texts to compare, in vLLM's, Jina's and Cohere's names."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, ConfigDict, Field, SkipValidation, model_validator
from pydantic_core import PydanticCustomError

from frontend.openai.inputs import MAX_INPUTS
from frontend.openai.protocol.body import Body
from frontend.openai.protocol.generation import MAX_INT32
from frontend.openai.protocol.pooling import POOLING_UNSUPPORTED, PoolingBody
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
    **POOLING_UNSUPPORTED,
    "dimensions": Unsupported((), "shorter vectors"),
    "activation": Unsupported((False,), "an older name of `use_activation`"),
    "softmax": Unsupported((False,), "an older name of `use_activation`"),
    "use_activation": Unsupported((False,), "a function over the scores of a classifier; these are cosines"),
}
_FORMS = (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"), ("data_1", "data_2"))
"""Names of both sides; texts of the one are compared to those of the other."""
_SIDES = tuple(dict.fromkeys(name for form in _FORMS for name in form))


class ScoreRequest(PoolingBody):
    """Body of `POST /v1/score`."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": list(form)} for form in _FORMS]})

    text_1: Texts | None = None
    """A text that is compared to each of `text_2`, or as many texts as those, compared pair by pair."""
    text_2: Texts | None = None
    """A text, or several."""
    queries: Texts | None = None
    """Another name of `text_1`, together with `documents` or `items`."""
    documents: Texts | None = None
    """Another name of `text_2`."""
    items: Texts | None = None
    """Another name of `text_2`."""
    data_1: Texts | None = None
    """Another name of `text_1`, together with `data_2`."""
    data_2: Texts | None = None
    """Another name of `text_2`."""

    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = {
        **_REFUSED,
        "label_token_ids": Unsupported((), "scores that are probabilities of next tokens"),
        "apply_softmax": Unsupported((False,), "scores that are probabilities of next tokens"),
        "item_first": Unsupported((False,), "scores that are probabilities of next tokens"),
        "query": Unsupported((), "`queries`, in another server's API"),
    }
    harmless_parameters: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="after")
    def _check_sides(self) -> "ScoreRequest":
        given = [name for name in _SIDES if getattr(self, name) is not None]
        if tuple(given) not in _FORMS:
            raise _no_form(given)
        left, right = self.sides
        num_left, num_right = len(self.texts_of(left)), len(self.texts_of(right))
        if num_left not in (1, num_right):
            raise InvalidRequestError(
                f"{left} has {num_left} texts and {right} has {num_right}: give one text, or as many as {right} has",
                param=left,
            )
        return self

    @property
    def sides(self) -> tuple[str, str]:
        """The names of the two fields that have texts."""
        return next(form for form in _FORMS if all(getattr(self, name) is not None for name in form))

    def texts_of(self, side: str) -> list[str]:
        """One of these fields as a list."""
        texts: str | list[str] = getattr(self, side)
        return [texts] if isinstance(texts, str) else texts


def _no_form(given: list[str]) -> InvalidRequestError:
    """What is missing beside these fields, or too much."""
    form = next(form for form in _FORMS if not given or given[0] in form)
    extra = next((name for name in given if name not in form), None)
    if extra is not None:
        return InvalidRequestError(f"{extra} cannot be given together with {given[0]}", param=extra)
    missing = next(name for name in form if name not in given)
    return InvalidRequestError(f"Missing required field: {missing}.", param=missing, code="missing_required_parameter")


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
        "instruct": Unsupported(("",), "a text of the model's before each text"),
    }
    harmless_parameters: ClassVar[Mapping[str, str]] = {}

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [item if isinstance(item, str) else item.text for item in self.documents]
