"""The detokenizer: all pieces together are the decoded whole, and no piece ends inside a character."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend.detokenizer import MAX_HELD_TOKENS, Detokenizer
from frontend.tokenizer import FrontendTokenizer

REPLACEMENT = "\ufffd"
UNICODE = st.text(
    alphabet=st.one_of(
        st.characters(exclude_categories=["Cs"], exclude_characters=REPLACEMENT), st.sampled_from("👩‍👧🏽é日")
    ),
    max_size=40,
)
WITH_FIXTURE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def pieces_of(tokenizer: FrontendTokenizer, token_ids: list[int], **options: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, **options)
    return [*(detokenizer.step(token_id) for token_id in token_ids), detokenizer.flush()]


@given(text=UNICODE)
@WITH_FIXTURE
def test_the_pieces_of_any_text_are_the_text(tokenizer: FrontendTokenizer, text: str):
    token_ids = tokenizer.backend.encode(text).ids
    pieces = pieces_of(tokenizer, token_ids)
    assert "".join(pieces) == text
    assert REPLACEMENT not in "".join(pieces)


@given(token_ids=st.lists(st.integers(0, 300), max_size=MAX_HELD_TOKENS))
@WITH_FIXTURE
def test_any_tokens_give_what_decoding_the_whole_gives(tokenizer: FrontendTokenizer, token_ids: list[int]):
    for skip in (True, False):
        pieces = pieces_of(tokenizer, token_ids, skip_special_tokens=skip)
        assert "".join(pieces) == tokenizer.decode(token_ids, skip_special_tokens=skip)


def test_half_a_character_at_the_end_becomes_one_replacement_character(tokenizer: FrontendTokenizer):
    lead_byte = tokenizer.backend.token_to_id("ð")  # 0xF0 in the byte-level alphabet
    assert pieces_of(tokenizer, [lead_byte]) == ["", REPLACEMENT]


def test_special_tokens_are_skipped_or_shown(tokenizer: FrontendTokenizer):
    token_ids = [*tokenizer.backend.encode("a").ids, 1]
    assert "".join(pieces_of(tokenizer, token_ids)) == "a"
    assert "".join(pieces_of(tokenizer, token_ids, skip_special_tokens=False)) == "a<|im_end|>"


def test_ids_that_the_tokenizer_does_not_know_give_no_text(tokenizer: FrontendTokenizer):
    token_ids = [*tokenizer.backend.encode("ab").ids, 100_000]
    assert "".join(pieces_of(tokenizer, token_ids)) == "ab"


def test_endless_invalid_bytes_are_not_held_back_for_ever(tokenizer: FrontendTokenizer):
    continuation_byte = tokenizer.backend.token_to_id("Ģ")  # 0x80 alone is no character
    detokenizer = Detokenizer(tokenizer)
    given_out = "".join(detokenizer.step(continuation_byte) for _ in range(3 * MAX_HELD_TOKENS))
    assert len(given_out) >= 2 * MAX_HELD_TOKENS


def test_a_decoder_that_rewrites_its_text_does_not_end_the_answer(tokenizer: FrontendTokenizer):
    class Rewriting:
        """Stands for the library where it reports what vLLM issue 17448 describes."""

        def step(self, *_: object) -> str:
            raise Exception("Invalid prefix encountered while decoding stream")

    detokenizer = Detokenizer(tokenizer)
    token_ids = tokenizer.backend.encode("hello there").ids
    first = detokenizer.step(token_ids[0])
    detokenizer._stream = Rewriting()
    rest = [detokenizer.step(token_id) for token_id in token_ids[1:]]
    assert first + "".join(rest) + detokenizer.flush() == "hello there"


@pytest.mark.parametrize("token_id", [-1, 2**40])
def test_an_id_that_is_no_id_is_an_error(tokenizer: FrontendTokenizer, token_id: int):
    with pytest.raises(TypeError):
        Detokenizer(tokenizer).step(token_id)
