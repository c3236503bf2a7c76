"""The stop string matcher: equal to a search in the whole text, however the text is cut."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from frontend.stop_strings import StopStringMatcher

TEXTS = st.text(alphabet="ab👩‍日", max_size=40)
STOPS = st.lists(st.text(alphabet="ab👩‍日", min_size=1, max_size=5), max_size=4)


def search(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: the match that ends first, ties by list order."""
    ends = [(text.find(stop) + len(stop), index) for index, stop in enumerate(stops) if stop in text]
    if not ends:
        return text, None
    end, index = min(ends)
    return text[: end - len(stops[index])], stops[index]


def run(matcher: StopStringMatcher, pieces: list[str]) -> str:
    return "".join(matcher.push(piece) for piece in pieces) + matcher.flush()


@given(text=TEXTS, stops=STOPS, cuts=st.lists(st.integers(0, 40), max_size=6))
def test_any_chunking_gives_what_a_search_in_the_whole_text_gives(text: str, stops: list[str], cuts: list[int]):
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[begin:end] for begin, end in pairwise(edges)]
    matcher = StopStringMatcher(stops)
    shown = run(matcher, pieces)
    assert (shown, matcher.found) == search(text, stops)


@given(text=TEXTS, stops=STOPS)
def test_nothing_is_held_back_that_cannot_become_a_stop_string(text: str, stops: list[str]):
    matcher = StopStringMatcher(stops)
    shown = "".join(matcher.push(character) for character in text)
    if matcher.found is None:
        held = text[len(shown) :]
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


def test_the_stop_string_can_be_included():
    matcher = StopStringMatcher(["END"], include_stop_string=True)
    assert run(matcher, ["one E", "ND two"]) == "one END"


def test_the_match_that_ends_first_wins():
    matcher = StopStringMatcher(["bcde", "cd"])
    assert run(matcher, ["abcdef"]) == "ab"
    assert matcher.found == "cd"


def test_of_two_that_end_together_the_first_listed_wins():
    matcher = StopStringMatcher(["b", "ab"])
    assert run(matcher, ["x", "ab"]) == "xa"
    assert matcher.found == "b"


def test_text_after_a_match_is_dropped():
    matcher = StopStringMatcher(["."])
    matcher.push("a.b")
    assert matcher.push("c") == ""
    assert matcher.flush() == ""


def test_a_false_start_is_released_at_once():
    matcher = StopStringMatcher(["aab"])
    assert [matcher.push(character) for character in "aaax"] == ["", "", "a", "aax"]
