import pytest

from ipc.errors import InvalidRequestError
from ipc.structured_output import MAX_SPEC_BYTES, NO_STRUCTURE, GrammarKind, StructuredOutput


@pytest.mark.parametrize("kind", set(GrammarKind) - {GrammarKind.NONE, GrammarKind.JSON_OBJECT})
def test_a_grammar_may_be_as_long_as_the_limit_and_no_longer(kind):
    StructuredOutput(kind, "é" * (MAX_SPEC_BYTES // 2)).validate()
    with pytest.raises(InvalidRequestError, match="64 KiB"):
        StructuredOutput(kind, "é" * (MAX_SPEC_BYTES // 2) + "x").validate()


@pytest.mark.parametrize(
    "senseless",
    [
        StructuredOutput(GrammarKind.NONE, "x"),
        StructuredOutput(GrammarKind.JSON_OBJECT, "x"),
        StructuredOutput(GrammarKind.REGEX),
    ],
)
def test_a_text_without_a_kind_and_a_kind_without_a_text_are_refused(senseless):
    with pytest.raises(InvalidRequestError) as caught:
        senseless.validate()
    assert caught.value.param == "structured_outputs"


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(InvalidRequestError, match="Unicode"):
        StructuredOutput(GrammarKind.REGEX, "\ud800").validate()


def test_only_the_kind_decides_whether_there_is_a_grammar():
    assert not NO_STRUCTURE
    assert StructuredOutput(GrammarKind.JSON_OBJECT)
    NO_STRUCTURE.validate()
