"""Every command of README.md and docs/quickstart.md runs, in the order of the page, but for those that say why not."""

import tempfile
from pathlib import Path

import pytest

from tests.documented_commands import Reader, blocks_of, commands_with_output, matches, parts_of
from tests.documents import ROOT

README, QUICKSTART = ROOT / "README.md", ROOT / "docs/quickstart.md"
NOT_RUN = {
    README: ["it is what runs the tests, and would start itself"],
    QUICKSTART: [
        "the tests run in the environment that it makes",
        "org/model, my-model and model.gguf stand for what you have",
        "gets 90 MB from PyPI",
        "needs a GPU",
    ],
}


@pytest.mark.parametrize("document", [README, QUICKSTART], ids=lambda path: path.name)
def test_only_these_blocks_are_not_run(document):
    assert [block.reason for block in blocks_of(document) if block.reason] == NOT_RUN[document]


@pytest.mark.model
@pytest.mark.timeout(300)
@pytest.mark.parametrize("document", [README, QUICKSTART], ids=lambda path: path.name)
def test_every_other_block_runs(document, smollm2_dir):
    blocks = [block for block in blocks_of(document) if not block.reason]
    assert len(blocks) >= 5
    with tempfile.TemporaryDirectory() as folder:  # of a short name, as paths of sockets are
        reader = Reader(Path(folder))
        try:
            for block in blocks:
                reader.run(block)
        finally:
            reader.close()


def test_a_script_is_divided_at_the_commands_that_start_servers():
    script = "a\nb \\\n  c\nscripts/serve x  # why\nd\nfast-inference serve --help\n"
    assert list(parts_of(script)) == ["a\nb \\\n  c\n", "scripts/serve x", "d\nfast-inference serve --help\n"]


def test_a_transcript_is_divided_into_commands_and_what_they_print():
    assert list(commands_with_output("$ a b\n1\n2\n$ c\n")) == [("a b", "1\n2\n"), ("c", "")]


@pytest.mark.parametrize(
    ("expected", "printed", "is_match"),
    [("a … d\n", "a b\nc d", True), ("a …", "b a", False), ("", "", True), ("a", "a b", False), ("a.c", "abc", False)],
)
def test_what_is_printed_is_compared_but_for_ellipses(expected, printed, is_match):
    assert matches(expected, printed) == is_match
