"""What is said while a server drains."""

import asyncio
import time

from fast_inference import drain_progress


def said(monkeypatch, capsys, quiet_s):
    monkeypatch.setattr(drain_progress, "_QUIET_S", quiet_s)
    monkeypatch.setattr(drain_progress, "_LINE_INTERVAL_S", 0.01)
    counts = iter([2, 1])

    async def run():
        showing = asyncio.create_task(drain_progress.show_drain(lambda: next(counts, 0), time.monotonic() + 30.4))
        await asyncio.wait({showing}, timeout=0.2)
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)

    asyncio.run(run())
    return capsys.readouterr().err.splitlines()


def test_requests_that_run_and_the_time_they_have(monkeypatch, capsys):
    first, second, third, *_ = said(monkeypatch, capsys, 0.0)
    assert first == "draining: 2 requests run, for at most 30 s more (a second signal ends them)"
    assert second.startswith("draining: 1 request runs, ")
    assert third.startswith("draining: 0 requests run, ")


def test_a_quick_end_is_not_spoken_of(monkeypatch, capsys):
    assert said(monkeypatch, capsys, 5.0) == []
