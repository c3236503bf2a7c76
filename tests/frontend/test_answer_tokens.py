"""Tokens come once, in order, and not before their text."""

from frontend.answer_tokens import AnswerToken, AnswerTokens
from ipc.request_outputs import TokenLogprobs

ROW = TokenLogprobs(1, (1,), (-0.5,))


def test_a_token_comes_with_its_text():
    tokens = AnswerTokens()
    tokens.add(1, ROW, "ab")
    assert tokens.release("ab", is_last=False) == [AnswerToken(1, ROW, 0)]


def test_a_token_waits_until_all_of_its_text_is_shown():
    tokens = AnswerTokens()
    tokens.add(1, None, "abc")
    assert tokens.release("ab", is_last=False) == []
    assert tokens.release("c", is_last=False) == [AnswerToken(1, None, 0)]


def test_parts_of_a_character_come_together_with_it():
    tokens = AnswerTokens()
    for token_id, decoded in ((1, "a"), (2, ""), (3, ""), (4, "é")):
        tokens.add(token_id, None, decoded)
    assert tokens.release("a", is_last=False) == [AnswerToken(1, None, 0)]
    assert tokens.release("", is_last=False) == []
    assert [token.offset for token in tokens.release("é", is_last=False)] == [1, 1, 1]


def test_the_end_gives_out_everything():
    tokens = AnswerTokens()
    tokens.add(1, None, "ab")
    tokens.add(2, None, "")
    assert tokens.release("a", is_last=True) == [AnswerToken(1, None, 0), AnswerToken(2, None, 1)]
    assert tokens.release("", is_last=True) == []
