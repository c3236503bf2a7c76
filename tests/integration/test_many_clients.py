"""Many clients at once on one port, served by several frontends."""

import asyncio
import os
import time
from pathlib import Path

import openai

from tests.processes import cpu_seconds


async def stream_text(client, number):
    """One streamed completion, by a client with a connection of its own."""
    async with client:
        stream = await client.completions.create(
            model="fake", prompt=f"request {number}", max_tokens=60, temperature=0, stream=True,
            extra_body={"ignore_eos": True},
        )  # fmt: skip
        return "".join([chunk.choices[0].text async for chunk in stream])


async def stream_all(url, count):
    clients = [openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) for _ in range(count)]
    return await asyncio.gather(*(stream_text(client, number) for number, client in enumerate(clients)))


def test_32_streams_over_two_frontends_complete_and_do_not_mix(fake_server):
    num_lines_before = len(fake_server.access_lines())
    texts = asyncio.run(stream_all(fake_server.url, 32))
    with fake_server.http() as http:
        for number, text in enumerate(texts):
            body = {"model": "fake", "prompt": f"request {number}", "max_tokens": 60, "temperature": 0}
            answer = http.post("/v1/completions", json={**body, "ignore_eos": True}).json()
            assert answer["choices"][0]["text"] == text
    lines = fake_server.access_lines()[num_lines_before:]
    served_by = [line.split()[3] for line in lines if " POST /v1/completions " in line][:32]
    assert len(served_by) == 32
    assert len(set(served_by)) == 2, served_by


def test_frontends_are_small_and_without_torch(fake_server):
    for pid in fake_server.frontend_pids:
        maps = Path(f"/proc/{pid}/maps").read_text()
        assert "libtorch" not in maps
        resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        assert resident_pages * os.sysconf("SC_PAGE_SIZE") < 150 * 2**20


def test_idle_processes_use_less_than_one_percent_of_a_cpu(fake_server):
    pids = [fake_server.process.pid, fake_server.core_pid, *fake_server.frontend_pids]
    time.sleep(1)
    before = [cpu_seconds(pid) for pid in pids]
    time.sleep(5)
    used = [cpu_seconds(pid) - then for pid, then in zip(pids, before, strict=True)]
    assert max(used) / 5 < 0.01, used
