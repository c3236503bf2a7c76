"""`GET /metrics` of a server with two cores."""

import asyncio
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.frontend.applications import application
from tests.processes import core_processes


@pytest.fixture(scope="module")
def cores(tmp_path_factory):
    """All run and answer again after a test."""
    with core_processes(tmp_path_factory.mktemp("run"), fake_step_ms=5) as cores:
        yield cores


def talk(cores, conversation, num_frontends: int = 1):
    """Run `conversation(*frontends)`."""

    async def run(*frontends):
        if len(frontends) == num_frontends:
            return await conversation(*frontends)
        async with application(cores[0].run_dir) as another:
            return await run(*frontends, another)

    return asyncio.run(run())


async def scrape(served) -> dict[tuple[str, ...], float]:
    """Values by name and labels, in their order, without the model's name."""
    answer = await served.http.get("/metrics")
    assert answer.status_code == 200
    families = text_string_to_metric_families(answer.text)
    samples = [sample for family in families for sample in family.samples]
    return {
        (sample.name, *(f"{label}={value}" for label, value in sample.labels.items() if label != "model_name")): (
            sample.value
        )
        for sample in samples
    }


def of_cores(samples, name: str) -> dict[str, float]:
    return {labels[0]: value for (found, *labels), value in samples.items() if found == name}


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  there is no event for it
            await asyncio.sleep(0.01)


def test_each_core_has_its_series(cores):
    async def conversation(served):
        body = {"model": "fake", "prompt": "abc", "max_tokens": 7, "ignore_eos": True}
        answers = await asyncio.gather(*(served.http.post("/v1/completions", json=body) for _ in range(8)))
        assert {answer.status_code for answer in answers} == {200}
        return await scrape(served)

    samples = talk(cores, conversation)
    assert of_cores(samples, "fast_inference_core_up") == {"core=0": 1, "core=1": 1}
    tokens = of_cores(samples, "fast_inference_generation_tokens_total")
    assert sum(tokens.values()) == 56
    assert tokens == of_cores(samples, "fast_inference_request_generation_tokens_sum")
    assert set(of_cores(samples, "fast_inference_kv_cache_usage_perc")) == {"core=0", "core=1"}


def test_a_core_that_is_dead_is_shown_as_such_and_the_others_as_before(cores):
    async def conversation(served):
        cores[1].kill()
        try:
            return await scrape(served)
        finally:
            cores[1].start()

    samples = talk(cores, conversation)
    assert of_cores(samples, "fast_inference_core_up") == {"core=0": 1, "core=1": 0}
    assert set(of_cores(samples, "fast_inference_kv_blocks")) == {"core=0"}
    assert samples[("fast_inference_ready",)] == 1


def test_a_core_that_hangs_keeps_no_scrape_from_being_answered(cores):
    async def conversation(served):
        cores[0].process.send_signal(signal.SIGSTOP)
        try:
            return await scrape(served)
        finally:
            cores[0].process.send_signal(signal.SIGCONT)

    samples = talk(cores, conversation)
    assert of_cores(samples, "fast_inference_core_up") == {"core=0": 0, "core=1": 1}
    assert of_cores(samples, "fast_inference_kv_blocks") == {"core=1": 64}


def test_requests_are_counted_once_whichever_core_keeps_the_count(tmp_path):
    """Each frontend reports to one core as long as that lives, and goes on counting with another one then."""
    with core_processes(tmp_path) as cores:
        talk(cores, lambda *frontends: count_while_cores_die(cores, *frontends), num_frontends=2)


async def count_while_cores_die(cores, one, other):
    async def ask(count):
        for _ in range(count):
            for served in (one, other):
                assert (await served.http.get("/v1/models")).status_code == 200

    async def counted(count):
        """By core, once it is as many; the other frontend reports within a second."""
        async with asyncio.timeout(20):
            while sum((by_core := models_by_core(await scrape(one))).values()) != count:
                assert sum(by_core.values()) < count
                await asyncio.sleep(0.02)
        return by_core

    async def sees(index, *, is_ready):
        await until(lambda: all(served.state.client.cores[index].is_ready is is_ready for served in (one, other)))

    await ask(10)
    kept = (await counted(20)).get("core=1", 0)
    cores[0].kill()  # and what it kept is gone
    await sees(0, is_ready=False)
    await ask(5)
    await counted(kept + 10)
    cores[0].start()
    await sees(0, is_ready=True)
    await ask(3)
    assert (await counted(kept + 16)).get("core=0", 0) == 0
    cores[1].kill()
    await sees(1, is_ready=False)
    await ask(2)
    assert await counted(4) == {"core=0": 4}


def models_by_core(samples) -> dict[str, float]:
    """What `/v1/models` was asked, by the core that keeps it."""
    wanted = {"handler=/v1/models", "status=200"}
    found = [(labels, value) for (name, *labels), value in samples.items() if name == "http_requests_total"]
    return {labels[0]: value for labels, value in found if wanted <= {*labels}}
