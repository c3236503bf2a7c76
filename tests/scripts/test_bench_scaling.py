"""Steps of each batch and context are measured, fitted and drawn."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/bench_scaling.py"


@pytest.fixture(scope="module")
def bench_scaling():
    spec = importlib.util.spec_from_file_location("bench_scaling", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_scaling"] = module
    spec.loader.exec_module(module)
    return module


def test_all_pairs_that_fit_are_measured_fitted_and_drawn(tiny_model_dir, tmp_path):
    report, plot = tmp_path / "scaling.json", tmp_path / "scaling.png"
    flags = ["--batches", "1,2,4", "--contexts", "20,40,100,1000", "--rounds", "1", "--threads", "1"]
    flags += ["--json", str(report), "--plot", str(plot)]
    command = [sys.executable, str(SCRIPT), "--model", str(tiny_model_dir), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("left out: ") == 3  # the model takes 256 tokens
    table = done.stdout.splitlines()
    assert table[0].split() == ["ms", "20", "40", "100"]
    assert [line.split()[0] for line in table[1:4]] == ["1", "2", "4"]
    assert done.stdout.count("goal at most 2.20x") == 2
    found = json.loads(report.read_text())
    assert len(found["steps"]) == 9
    assert all(row["step_ms"] > 0 for row in found["steps"])
    assert len(found["doublings"]) == 2 * 3 + 3 * 1
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_the_fit_finds_what_times_are_made_of(bench_scaling):
    pairs = [(batch, context) for batch in (1, 2, 8) for context in (10, 100, 1000)]
    fit = bench_scaling.Fit.of(
        {(batch, context): 5.0 + 0.5 * batch + 0.002 * batch * context for batch, context in pairs}
    )
    assert (fit.fixed, fit.per_request, fit.per_token) == pytest.approx((5.0, 0.5, 0.002))
    assert fit.largest_error < 1e-9
    assert fit.at(4, 50) == pytest.approx(7.4)
