"""`examples/ray_batch.py` as it is written, with the fake model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_every_prompt_of_a_folder_is_answered(tmp_path: Path):
    prompts = [f"prompt {number}" for number in range(20)]
    (tmp_path / "in").mkdir()
    for name, some in (("a.jsonl", prompts[:12]), ("b.jsonl", prompts[12:])):
        (tmp_path / "in" / name).write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in some))
    command = [sys.executable, "examples/ray_batch.py", str(tmp_path / "in"), str(tmp_path / "out"), "--model", "fake"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = [json.loads(raw) for path in (tmp_path / "out").iterdir() for raw in path.read_text().splitlines()]
    assert sorted(row["prompt"] for row in rows) == sorted(prompts)
    assert {row["finish_reason"] for row in rows} <= {"stop", "length"}
    assert any(row["answer"] for row in rows)
