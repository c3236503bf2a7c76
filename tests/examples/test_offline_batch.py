"""`examples/offline_batch.py` and the snippets of docs/batch.md run as they are written, with the fake model."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/batch.md").read_text(), re.DOTALL | re.MULTILINE)


def run(*argv: str) -> str:
    result = subprocess.run(
        [sys.executable, *argv], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_example_answers_everything():
    printed = run("examples/offline_batch.py", "--model", "fake")
    assert printed.count(" goes on ") == printed.count("two answers: ") == 4
    assert re.search(r"^100 more answers have \d+ tokens$", printed, re.MULTILINE)
    assert printed.endswith("4 vectors of 16 numbers\n")


@pytest.mark.parametrize("snippet", [snippet for snippet in SNIPPETS if "LLM" in snippet and "attach" not in snippet])
def test_the_snippets_of_the_documents_run(snippet):
    assert '"smollm2-135m-instruct"' in snippet
    assert run("-c", snippet.replace("smollm2-135m-instruct", "fake"))
