import pytest

from engine_core.structured_output.grammar_cache import GrammarCache
from ipc.structured_output import GrammarKind, StructuredOutput


def spec(number, size=4):
    return StructuredOutput(GrammarKind.REGEX, str(number).zfill(size))


@pytest.fixture
def grammar(compiled):
    return compiled(GrammarKind.REGEX, "a")


def test_what_was_used_last_stays(grammar):
    cache = GrammarCache(max_entries=2)
    for number in (1, 2):
        cache.put(spec(number), grammar)
    assert cache.get(spec(1)) is grammar
    cache.put(spec(3), grammar)
    assert [number for number in (1, 2, 3) if cache.get(spec(number)) is not None] == [1, 3]


def test_the_texts_are_bounded_in_bytes(grammar):
    cache = GrammarCache(max_bytes=100)
    for number in range(50):
        cache.put(spec(number, size=30), grammar)
    assert len(cache) == 3
    cache.put(spec(99, size=101), grammar)
    assert len(cache) == 0
    for number in range(3):  # the bytes of what left are not counted any more
        cache.put(spec(number, size=33), grammar)
    assert len(cache) == 3


def test_the_kind_is_part_of_the_key(grammar):
    cache = GrammarCache()
    cache.put(StructuredOutput(GrammarKind.REGEX, "a"), grammar)
    assert cache.get(StructuredOutput(GrammarKind.LARK, "a")) is None


def test_a_spoiled_grammar_is_not_given_out(grammar):
    cache = GrammarCache()
    cache.put(spec(1), grammar)
    grammar.is_spoiled = True
    assert cache.get(spec(1)) is None
    assert len(cache) == 0
