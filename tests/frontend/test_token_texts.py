"""Bytes of single tokens: together they are the bytes of the text."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models

from frontend.token_texts import TokenTexts
from frontend.tokenizer import FrontendTokenizer


@given(text=st.text(max_size=30))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(tokenizer: FrontendTokenizer, text: str):
    ids = tokenizer.backend.encode(text).ids
    assert b"".join(map(tokenizer.token_texts.bytes_of, ids)) == text.encode()


def test_part_of_a_character_is_spelled_as_bytes(tokenizer: FrontendTokenizer):
    lead_byte = tokenizer.backend.token_to_id("ð")  # 0xF0 in the byte-level alphabet
    assert tokenizer.token_texts.bytes_of(lead_byte) == b"\xf0"
    assert tokenizer.token_texts.text_of(lead_byte) == "bytes:\\xf0"


def test_a_special_token_is_its_own_text(tokenizer: FrontendTokenizer):
    assert tokenizer.token_texts.text_of(1) == "<|im_end|>"


def test_an_unknown_id_has_no_bytes(tokenizer: FrontendTokenizer):
    assert tokenizer.token_texts.bytes_of(100_000) == b""


@pytest.mark.parametrize(
    ("token", "expected"), [("▁the", b" the"), ("<0xF0>", b"\xf0"), ("<0x0A>", b"\n"), ("é", "é".encode())]
)
def test_sentencepiece_spells_spaces_and_bytes(token: str, expected: bytes):
    tokenizer = Tokenizer(models.BPE(vocab={token: 0}, merges=[]))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    assert TokenTexts(tokenizer).bytes_of(0) == expected


def test_other_decoders_are_asked():
    tokenizer = Tokenizer(models.WordPiece(vocab={"[UNK]": 0, "un": 1, "##able": 2}, unk_token="[UNK]"))
    tokenizer.decoder = decoders.WordPiece()
    assert TokenTexts(tokenizer).text_of(1) == "un"
