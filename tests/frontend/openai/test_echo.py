"""The echoed prompt: as it came, with offsets that point into it."""

import asyncio

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend.input_processor import EngineInput
from frontend.openai.echo import INLINE_TOKENS, Echo, echo_of
from frontend.tokenizer import FrontendTokenizer
from ipc.request_outputs import TokenLogprobs
from ipc.sampling_params import SamplingParams


def echo(tokenizer: FrontendTokenizer, ids: list[int], text: str | None, **options: bool) -> Echo:
    item = EngineInput(ids, SamplingParams(max_tokens=1), text)
    return asyncio.run(echo_of(tokenizer, item, **{"skip_special_tokens": True, "has_offsets": True, **options}))


@given(text=st.text(min_size=1, max_size=20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
def test_a_text_comes_back_with_the_offset_of_each_token(tokenizer: FrontendTokenizer, text: str):
    ids = tokenizer.backend.encode(text).ids
    found = echo(tokenizer, ids, text)
    assert found.text == text
    pieces = [text[begin:end] for begin, end in zip(found.offsets, (*found.offsets[1:], len(text)), strict=True)]
    assert "".join(pieces) == text


def test_special_tokens_of_a_text_are_part_of_it(tokenizer: FrontendTokenizer):
    text = "<|im_start|>a"
    found = echo(tokenizer, tokenizer.backend.encode(text).ids, text)
    assert (found.text, found.offsets) == (text, (0, 12))


def test_special_tokens_around_a_text_are_not(tokenizer: FrontendTokenizer):
    ids = [0, *tokenizer.backend.encode("a").ids]
    assert echo(tokenizer, ids, "a") == Echo("a", (0, 0))


def test_ids_are_decoded(tokenizer: FrontendTokenizer):
    ids = [0, *tokenizer.backend.encode("ab").ids]
    assert echo(tokenizer, ids, None, has_offsets=False).text == "ab"
    assert echo(tokenizer, ids, None, has_offsets=False, skip_special_tokens=False).text == "<|im_start|>ab"


def test_a_long_prompt_is_decoded_too(tokenizer: FrontendTokenizer):
    ids = tokenizer.backend.encode("z").ids * (INLINE_TOKENS + 1)
    assert echo(tokenizer, ids, None).offsets == tuple(range(len(ids)))


def test_the_first_token_has_no_logprobs():
    row = TokenLogprobs(1, (6,), (-0.5,))
    assert [token.logprobs for token in Echo("ab", (0, 1)).tokens([5, 6], [row])] == [None, row]
