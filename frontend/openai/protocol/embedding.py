"""The body of `POST /v1/embeddings`."""

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from frontend.openai.inputs import EmbeddingInputs
from frontend.openai.protocol.generation import MAX_INT32
from frontend.openai.protocol.pooling import POOLING_UNSUPPORTED, PoolingBody
from frontend.openai.unsupported import UNSUPPORTED_PARAMETERS, Unsupported


class EmbeddingRequest(PoolingBody):
    """Body of `POST /v1/embeddings`."""

    input: EmbeddingInputs
    """A text, several texts, the token ids of one, or the token ids of several."""
    encoding_format: Literal["float", "base64"] = "float"
    """JSON numbers, or base64 of little-endian 32-bit floats."""
    dimensions: int | None = Field(None, ge=1, le=MAX_INT32)
    """Only this many first components, scaled to length 1 again; at most the model's own number."""

    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = {
        **UNSUPPORTED_PARAMETERS,
        **POOLING_UNSUPPORTED,
        "messages": Unsupported(([],), "the vector of a conversation"),
        "add_generation_prompt": Unsupported((False,), "the vector of a conversation"),
        "normalize": Unsupported((True,), "vectors as the model gives them"),
        "use_activation": Unsupported((True,), "vectors as the model gives them"),
        "embd_normalize": Unsupported((2,), "vectors of another norm"),
        "embed_dtype": Unsupported(("float32",), "numbers of another precision"),
        "output_dtype": Unsupported(("float",), "numbers of another precision"),
        "embedding_types": Unsupported((["float"],), "numbers of another precision"),
        "endianness": Unsupported(("little",), "base64 of big-endian numbers"),
        "output_dimension": Unsupported((), "another name of `dimensions`"),
    }
