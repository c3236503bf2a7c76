"""Prompts with a `suffix`: what comes before and after a gap, in the order and between the tokens of code models.

Which tokens a model has shows in its vocabulary; a model without a complete set cannot fill gaps. Called by
`frontend/input_processor.py`.
"""

from typing import NamedTuple

from frontend.tokenizer import FrontendTokenizer
from ipc.errors import UnsupportedParameterError


class FillTokens(NamedTuple):
    """The three tokens of one family, in the order in which they stand."""

    before_prefix: str
    after_prefix: str
    after_suffix: str


FAMILIES = (
    FillTokens("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen coder, CodeGemma
    FillTokens("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    FillTokens("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁hole\uff5c>", "<\uff5cfim▁end\uff5c>"),  # DeepSeek Coder
    FillTokens("▁<PRE>", "▁<SUF>", "▁<MID>"),  # Code Llama
)


def fill_prompt(tokenizer: FrontendTokenizer, prefix: list[int], suffix: list[int]) -> list[int]:
    """Token ids of a prompt whose answer goes between `prefix` and `suffix`.

    What the tokenizer puts before every text (BOS) stays in front.

    Raises:
        UnsupportedParameterError: the model has no tokens for this.
    """
    for family in FAMILIES:
        ids = [token_id for token in family if (token_id := tokenizer.backend.token_to_id(token)) is not None]
        if len(ids) == len(family):
            num_leading = _num_leading(tokenizer, prefix)
            return [*prefix[:num_leading], ids[0], *prefix[num_leading:], ids[1], *suffix, ids[2]]
    raise UnsupportedParameterError("This model has no tokens for a suffix.", param="suffix")


def _num_leading(tokenizer: FrontendTokenizer, token_ids: list[int]) -> int:
    special: list[int] = tokenizer.backend.encode("", add_special_tokens=True).ids
    return len(special) if token_ids[: len(special)] == special else 0
