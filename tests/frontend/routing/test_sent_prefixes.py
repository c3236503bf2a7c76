"""Of the last requests that went to a core, what it had already."""

from frontend.routing.sent_prefixes import SentPrefixes


def test_the_last_requests_count():
    sent = SentPrefixes()
    for num_known_tokens in (1, 10, 100):
        sent.add("a", num_known_tokens)
    sent.add("b", 7)
    assert [sent.num_known_tokens("a", count) for count in (0, 1, 2, 3, 4)] == [0, 100, 110, 111, 111]
    assert sent.num_known_tokens("b", 1) == 7
    assert sent.num_known_tokens("c", 1) == 0


def test_only_so_many_are_remembered():
    sent = SentPrefixes()
    for _ in range(100):
        sent.add("a", 1)
    assert sent.num_known_tokens("a", 100) == 64


def test_a_core_that_is_gone_is_forgotten():
    sent = SentPrefixes()
    sent.add("a", 5)
    sent.forget(["a", "b"])
    assert sent.num_known_tokens("a", 1) == 0
