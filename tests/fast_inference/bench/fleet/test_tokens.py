"""Texts share blocks and tokens as far as their parts are the same."""

from fast_inference.bench.fleet.tokens import Alphabet, Text, block_id


def test_texts_share_the_blocks_of_their_common_parts():
    system = Text().plus(1, 100)
    first, second = system.plus(2, 60), system.plus(3, 60)
    assert first.block_ids(32)[:3] == second.block_ids(32)[:3] == [block_id(1, index) for index in range(3)]
    assert first.block_ids(32)[3:] == [block_id(2, 3), block_id(2, 4)]  # the block with both belongs to the second part
    assert not set(first.block_ids(32)[3:]) & set(second.block_ids(32)[3:])


def test_a_text_that_goes_on_keeps_its_blocks():
    text = Text().plus(1, 100).plus(2, 60)
    longer = text.plus(2, 40)
    assert longer.parts == ((1, 100), (2, 200))
    assert longer.block_ids(32)[: len(text.block_ids(32))] == text.block_ids(32)


def test_tokens_are_equal_where_parts_are():
    alphabet = Alphabet(200, 32)
    system = Text().plus(1, 100)
    first, second = (system.plus(owner, 60).token_ids(alphabet) for owner in (2, 202))
    assert len(first) == 160
    assert first[:100] == second[:100]
    assert first[100:108] != second[100:108]
    assert all(32 <= token < 232 for token in first)
    assert system.plus(2, 60).token_ids(alphabet, 120) == first[:120]
