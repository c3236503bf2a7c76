"""What people see of a job that runs."""

import pytest

from fast_inference.batch.progress import JobProgress
from frontend.batch.job import JobCounts


def test_a_plain_line_says_how_far_the_job_is(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    counts = JobCounts(num_resumed=10, num_ok=10)
    with JobProgress(counts) as progress:
        now, counts.num_ok, counts.num_failed = 105.0, 55, 5
        counts.num_prompt_tokens, counts.num_output_tokens = 500, 1000
        progress.show()
        progress.num_total = 36_060
        progress.show()
    assert capsys.readouterr().err.splitlines() == [
        "60 lines done, 5 failed, 200 tok/s out, 100 in",
        "60 of 36,060 lines done, 5 failed, 200 tok/s out, 100 in, 1:00:00 left",
    ]
