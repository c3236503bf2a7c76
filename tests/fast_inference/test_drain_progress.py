"""What is said while a server drains."""

import asyncio
import time

import pytest

from fast_inference import drain_progress


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(drain_progress, "_LINE_INTERVAL_S", 0.001)


def test_requests_that_run_and_the_time_they_have(monkeypatch, capsys):
    monkeypatch.setattr(drain_progress, "_QUIET_S", 0.0)
    counts = iter([2, 1, 0])

    async def run():
        all_asked = asyncio.Event()

        def num_running():
            count = next(counts, None)
            if count is None:
                all_asked.set()
            return count or 0

        showing = asyncio.create_task(drain_progress.show_drain(num_running, time.monotonic() + 1000))
        await all_asked.wait()
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)

    asyncio.run(run())
    first, second, third, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("draining: 2 requests run, for at most ")
    assert first.endswith(" s more (a second signal ends them)")
    assert second.startswith("draining: 1 request runs, ")
    assert third.startswith("draining: 0 requests run, ")


def test_a_quick_end_is_not_spoken_of(capsys):
    async def run():
        showing = asyncio.create_task(drain_progress.show_drain(lambda: 1, time.monotonic()))
        await asyncio.sleep(0)
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)

    asyncio.run(run())
    assert capsys.readouterr().err == ""
