"""What `/load` and `/server_info` tell, and what they keep to themselves."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frontend.server_info import load_of
from ipc.messages import Load
from ipc.placement import Capacity
from tests.frontend.applications import Application, application
from tests.processes import CoreProcess, core_process


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run"), fake_step_ms=5, max_num_seqs=2) as core:
        yield core


async def get(served: Application, path: str) -> Any:
    answer = await served.http.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_an_idle_server_holds_nothing(core: CoreProcess):
    async def run() -> Any:
        async with application(core.run_dir) as served:
            return await get(served, "/load")

    load = asyncio.run(run())
    expected = {
        "status": "ready",
        "server_load": 0,
        "num_requests_running": 0,
        "num_requests_waiting": 0,
        "num_queued_tokens": 0,
        "kv_cache_usage": 0,
        "is_full": False,
    }
    assert {name: load[name] for name in expected} == expected
    assert load["capacity"] == {
        "running": 2,
        "waiting": 1024,
        "queued_tokens": 1_000_000,
        "kv_blocks": 64,
        "kv_tokens": 64 * 32,
    }


def test_the_load_is_that_of_all_frontends(core: CoreProcess):
    async def run() -> Any:
        async with application(core.run_dir) as served, application(core.run_dir) as other:
            body = {"model": "fake", "prompt": "x" * 40, "max_tokens": 900, "ignore_eos": True, "n": 3}
            generating = asyncio.create_task(served.http.post("/v1/completions", json=body))
            async with asyncio.timeout(10):
                while (load := await get(other, "/load"))["num_requests_waiting"] == 0:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            generating.cancel()
            return load

    load = asyncio.run(run())
    assert (load["num_requests_running"], load["num_requests_waiting"], load["num_queued_tokens"]) == (2, 1, 40)
    assert load["server_load"] == 3
    assert load["kv_cache_usage"] > 0


@pytest.mark.parametrize(
    ("load", "usage", "is_full"),
    [
        (Load(), 0, False),
        (Load(num_free_blocks=3, num_blocks=4), 0.25, False),
        (Load(num_free_blocks=0, num_blocks=4, retry_after_ms=1500), 1, True),
    ],
)
def test_usage_is_the_part_that_is_not_free(load: Load, usage: float, is_full: bool):
    described = load_of(load, Capacity(num_blocks=4), 32)
    assert (described["kv_cache_usage"], described["is_full"]) == (usage, is_full)
    assert described["retry_after_s"] == load.retry_after_ms / 1000


def test_the_description_has_versions_model_and_limits(core: CoreProcess):
    async def run() -> Any:
        async with application(core.run_dir, max_body_bytes=5000) as served:
            return await get(served, "/server_info")

    info = asyncio.run(run())
    assert info["version"] == info["core_version"]
    assert info["model"] == {
        "names": ["fake", "fast-inference-model"],
        "adapters": [],
        "fingerprint": "fp_fake",
        "dtype": "int32",
        "device": "none",
        "vocab_size": 258,
        "max_model_len": 2048,
        "embedding_size": 16,
        "can_generate": True,
        "pooling": "mean",
    }
    assert info["cores"] == [
        {"name": "0", "version": info["version"], "device": "none", "num_blocks": 64, "max_num_seqs": 2}
    ]
    assert info["kv_cache"] == {"block_size": 32, "num_blocks": 64}
    assert (info["limits"]["max_num_seqs"], info["limits"]["max_body_bytes"]) == (2, 5000)


def test_neither_tells_paths_or_keys(core: CoreProcess):
    async def run() -> str:
        settings = {"api_key": ("secret-key",), "admin_api_key": ("other-key",)}
        async with application(core.run_dir, **settings) as served:
            served.http.headers["x-api-key"] = "secret-key"
            return str([await get(served, path) for path in ("/load", "/server_info")])

    told = asyncio.run(run())
    assert not any(word in told for word in ("secret", "other-key", "sha256", str(core.run_dir.path), "/"))


@pytest.mark.parametrize("path", ["/load", "/server_info"])
def test_both_need_a_key_where_there_are_keys(core: CoreProcess, tmp_path: Path, path: str):
    async def run() -> int:
        async with application(core.run_dir, api_key=("k",)) as served:
            return (await served.http.get(path)).status_code

    assert asyncio.run(run()) == 401
