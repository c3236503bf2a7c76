"""The command: a table, JSON and a picture; and a fit whose coefficients are those of the fake model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fast_inference.bench.fleet.fitting import StepRow, fit

SCRIPT = Path(__file__).parents[2] / "scripts/simulate_fleet.py"


def run(*flags):
    return subprocess.run([sys.executable, SCRIPT, *flags], capture_output=True, text=True, timeout=100, check=False)


def test_policies_are_compared_in_a_table_in_json_and_in_a_picture(tmp_path):
    report, plot = tmp_path / "fleet.json", tmp_path / "fleet.svg"
    flags = ["--cores", "2", "--rates", "0.5,1", "--policies", "ours,round-robin", "--duration", "10", "--warm-up", "5"]
    done = run(*flags, "--json", report, "--plot", plot)
    assert done.returncode == 0, done.stderr
    assert [line.split(" | ")[1:4] for line in done.stdout.splitlines()[2:]] == [
        ["2", "0.5", "ours"],
        ["2", "0.5", "round-robin"],
        ["2", "1", "ours"],
        ["2", "1", "round-robin"],
    ]
    rows = json.loads(report.read_text())
    assert all(0 <= row["cache_hit_rate"] < 1 and row["ttft_p99_ms"] > 0 for row in rows)
    assert plot.read_text().startswith("<?xml")


@pytest.mark.parametrize(
    ("flags", "said"),
    [(["--policies", "best"], "none of"), (["--scale", "4:2"], "MIN"), (["--profile", "nonesuch"], "h200-8b")],
)
def test_flags_that_make_no_sense_are_refused(flags, said):
    done = run(*flags)
    assert done.returncode != 0
    assert said in done.stderr.splitlines()[-1]


def test_a_fit_finds_what_steps_are_made_of():
    rows = [
        StepRow(0.02 + 0.001 * decodes + 1e-6 * context + 2e-4 * prefill, decodes, context, prefill)
        for decodes, context, prefill in ((1, 100, 0), (4, 900, 0), (16, 1000, 60), (8, 8000, 300), (0, 0, 500))
    ]
    step_time, error = fit(rows)
    found = (step_time.fixed_s, step_time.per_request_s, step_time.per_context_token_s, step_time.per_prefill_token_s)
    assert found == pytest.approx((0.02, 0.001, 1e-6, 2e-4))
    assert error < 1e-9


def test_a_profile_of_the_fake_model_is_measured_through_the_engine(tmp_path):
    path = tmp_path / "fake.json"
    flags = ["--max-num-seqs", "2", "--fake-step-ms", "3", "--fake-token-us", "50"]
    done = run("--fit", path, *flags)
    assert done.returncode == 0, done.stderr
    profile = json.loads(path.read_text())
    assert profile["step_time"]["fixed_s"] >= 0.0025
    assert profile["command"].endswith(" ".join(flags))
