"""The prompt as the beginning of a completion (`echo`): its text, and where in it each token begins.

A prompt that came as text is echoed exactly as it came. Token ids are decoded. Called by `completions.py`.
"""

import asyncio
from dataclasses import dataclass

from frontend.answer_tokens import AnswerToken, AnswerTokens
from frontend.detokenizer import Detokenizer
from frontend.input_processor import EngineInput
from frontend.tokenizer import FrontendTokenizer
from ipc.request_outputs import TokenLogprobs

INLINE_TOKENS = 1_000
"""Longer prompts are decoded in a thread, so that nobody waits for them."""


@dataclass(frozen=True, slots=True)
class Echo:
    """An echoed prompt."""

    text: str
    offsets: tuple[int, ...] = ()
    """Where the text of each token begins; empty where nobody asked."""

    def tokens(self, token_ids: list[int], rows: list[TokenLogprobs]) -> list[AnswerToken]:
        """The tokens of the prompt; `rows` has none for the first one, which nothing predicts."""
        return list(map(AnswerToken, token_ids, (None, *rows), self.offsets))


NO_ECHO = Echo("")


async def echo_of(
    tokenizer: FrontendTokenizer, item: EngineInput, *, skip_special_tokens: bool, has_offsets: bool
) -> Echo:
    """The echo of one prompt."""
    if item.prompt_text is not None and not has_offsets:
        return Echo(item.prompt_text)
    arguments = (tokenizer, item, skip_special_tokens, has_offsets)
    if len(item.prompt_token_ids) > INLINE_TOKENS:
        return await asyncio.to_thread(_echo_of, *arguments)
    return _echo_of(*arguments)


def _echo_of(tokenizer: FrontendTokenizer, item: EngineInput, skip_special_tokens: bool, has_offsets: bool) -> Echo:
    ids = item.prompt_token_ids
    if not has_offsets:
        return Echo(tokenizer.decode_long(ids, skip_special_tokens=skip_special_tokens))
    if item.prompt_text is None:
        return _decoded(tokenizer, ids, skip_special_tokens)
    for skip in (False, True):  # the text may name special tokens, or have them only around it
        echo = _decoded(tokenizer, ids, skip)
        if echo.text == item.prompt_text:
            return echo
    end = len(item.prompt_text)  # a tokenizer that changes its text: the offsets are as good as can be
    return Echo(item.prompt_text, tuple(min(offset, end) for offset in echo.offsets))


def _decoded(tokenizer: FrontendTokenizer, token_ids: list[int], skip_special_tokens: bool) -> Echo:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip_special_tokens)
    tokens = AnswerTokens()
    texts: list[str] = []
    for token_id in token_ids:
        texts.append(detokenizer.step(token_id))
        tokens.add(token_id, None, texts[-1])
    texts.append(detokenizer.flush())
    tokens.flush(texts[-1])
    text = "".join(texts)
    return Echo(text, tuple(token.offset for token in tokens.release(text, is_last=True)))
