"""Floor, step and the parts of both are printed for each batch, and add up."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/bench_floor.py"


def run(*argv: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_the_parts_make_up_floor_and_step(tiny_model_dir, tmp_path, quantization):
    report = tmp_path / "floor.json"
    flags = ("--model", tiny_model_dir, "--threads", 1, "--quantization", quantization, "--json", report)
    done = run("1x20", "3x60", *flags, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ms +1 x 20 +3 x 60$", done.stdout, re.MULTILINE)
    assert re.search(r"^step / floor( +\d+\.\d\d){2}$", done.stdout, re.MULTILINE)
    results = json.loads(report.read_text())["results"]
    assert [(result["batch"], result["context"]) for result in results] == [(1, 20), (3, 60)]
    for result in results:
        for whole in ("floor", "step"):
            parts = result[f"{whole}_parts_ms"]
            assert sum(parts.values()) == pytest.approx(result[f"{whole}_ms"])
        assert result["ratio"] == pytest.approx(result["step_ms"] / result["floor_ms"])
        assert all(value > 0 for value in result["floor_parts_ms"].values())
        assert min(result["step_parts_ms"][name] for name in ("head", "sampling", "scheduling and update")) > 0


def test_a_batch_that_is_none_is_wrong_usage():
    done = run("32")
    assert (done.returncode, done.stdout) == (2, "")
    assert "must be BATCHxCONTEXT" in done.stderr


def test_a_model_that_is_not_there_is_one_line(tmp_path):
    done = run("--model", tmp_path / "none")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1].startswith("error: ")
