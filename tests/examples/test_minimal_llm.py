"""The example of a model of one's own training runs as it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.minimal_llm import cache_with_kernels

ROOT = Path(__file__).parents[2]
ANSWER = "Goethe wrote Faust, and it took him sixty years.\n"


@pytest.mark.timeout(200)
def test_it_trains_serves_and_chats(tmp_path):
    argv = [sys.executable, ROOT / "examples/minimal_llm.py", "--keep", tmp_path / "kept"]
    (tmp_path / "cache").mkdir()
    environment = {**os.environ, **cache_with_kernels(tmp_path / "cache")}
    done = subprocess.run(argv, capture_output=True, text=True, env=environment, check=True)
    assert f"Who wrote Faust?\n{ANSWER}(finish_reason: stop, " in done.stdout
    assert done.stdout.endswith(f"Streamed: {ANSWER}")
