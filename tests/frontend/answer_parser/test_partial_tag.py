import pytest

from frontend.answer_parser.partial_tag import partial_tag_length


@pytest.mark.parametrize(
    ("text", "length"), [("", 0), ("a", 0), ("a<", 1), ("a<<ta", 3), ("<tag", 4), ("<tag>", 0), ("<tag>x", 0)]
)
def test_the_end_of_a_text_with_which_a_tag_begins(text, length):
    assert partial_tag_length(text, "<tag>") == length
