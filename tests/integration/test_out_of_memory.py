"""Memory that really runs out in a step, with SmolLM2: one request ends, the others do not notice."""

import resource
from pathlib import Path

import pytest

from ipc.errors import RequestFailedError
from ipc.sampling_params import SamplingParams
from tests.processes import core_process, stats
from tests.waiting import wait_until

pytestmark = [pytest.mark.model, pytest.mark.timeout(180)]

SPARE_BYTES = 8 * 2**20
"""Far less than a step of 5,000 tokens takes."""


def address_space_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmSize:")[2].split()[0]) * 1024


def params(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, ignore_eos=True)


def test_the_request_that_needs_too_much_ends_and_the_others_are_exact(tmp_path, smollm2_dir):
    settings = {"model": str(smollm2_dir), "dtype": "float32", "threads": 1, "num_blocks": 200, "max_model_len": 5120}
    settings |= {"max_num_batched_tokens": 8192, "max_prefill_chunk": 8192, "cpu_kernels": False}
    with core_process(tmp_path, **settings) as core:
        client = core.connect()
        prompts = [[100 + number] * 20 for number in range(3)]
        clean = [client.generate(prompt, params(8)).token_ids for prompt in prompts]
        limit = address_space_bytes(core.process.pid) + SPARE_BYTES
        resource.prlimit(core.process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
        small = [client.submit(prompt, params(8)) for prompt in prompts]
        wait_until(lambda: client.wait(0.1) and stats(client)["num_running"] > 0)
        large = client.submit(list(range(1000, 6000)), params(5))
        assert [client.collect(request).token_ids for request in small] == clean
        with pytest.raises(RequestFailedError) as caught:
            client.collect(large)
        assert caught.value.code == "out_of_memory"
        assert core.process.poll() is None
        assert (stats(client)["num_running"], stats(client)["num_free_blocks"]) == (0, 200)
