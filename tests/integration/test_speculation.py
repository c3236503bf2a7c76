"""SmolLM2 with n-gram speculation in fp32: the texts of a server without, in fewer steps."""

import pytest
from transformers import AutoTokenizer

from engine_core.model.loader import load_model_runner
from engine_core.speculation import drafter
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.messages import CallMethod
from tests.factories import CoreHarness
from tests.servers import Server

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"
TEXT = (
    "The harbour master counts the boats each evening: seven trawlers, three tugs, a ferry and the pilot boat. "
    "He writes their names into a blue book, and beside each name the hour at which it came home."
)
COPY = [{"role": "user", "content": f"Repeat this text word for word:\n\n{TEXT}"}]


@pytest.fixture(scope="module")
def runner(smollm2_dir):
    model = ModelConfig(model=str(smollm2_dir), dtype="float32", max_model_len=1024, threads=1)
    return load_model_runner(model, CacheConfig(num_blocks=64), SchedulerConfig(), lambda stage: None)


@pytest.fixture(scope="module")
def server(smollm2_dir, tmp_path_factory):
    flags = ("--dtype", "float32", "--speculative", "ngram", "--max-model-len", "1024", "--threads", "1")
    server = Server(tmp_path_factory.mktemp("smollm2"), MODEL, *flags)
    yield server
    server.close()


@pytest.mark.parametrize("params", [{}, {"temperature": 0.4, "top_p": 0.9, "seed": 11}], ids=["greedy", "drawn"])
def test_a_copied_text_takes_few_steps_and_is_the_same(runner, smollm2_dir, params, monkeypatch):
    for name in ("START_CREDIT", "MAX_CREDIT"):  # whatever steps take while other tests run
        monkeypatch.setattr(drafter, name, 1e9)
    tokenizer = AutoTokenizer.from_pretrained(smollm2_dir)
    prompt = tokenizer.apply_chat_template(COPY, add_generation_prompt=True, return_dict=False)
    answers = []
    for speculative in ("off", "ngram"):
        harness = CoreHarness(runner, block_size=32, max_num_batched_tokens=512, speculative=speculative)
        request_id = harness.add(prompt, max_tokens=40, **params)
        harness.run()
        harness.check_idle()
        answers.append(harness.token_ids[request_id])
    assert answers[1] == answers[0]
    assert harness.scheduler.num_accepted_tokens > 10


def test_streamed_whole_and_stopped_answers_are_those_without_drafts(server):
    with server.openai() as client, server.connect() as core:
        request = {"model": MODEL, "messages": COPY, "temperature": 0, "max_tokens": 40}
        undrafted = client.chat.completions.create(**request, logprobs=True).choices[0].message.content
        assert core.call(CallMethod.STATS)["num_draft_tokens"] == 0
        whole = client.chat.completions.create(**request)
        assert whole.choices[0].message.content == undrafted
        assert core.call(CallMethod.STATS)["num_accepted_tokens"] > 0
        usage = {"include_usage": True, "continuous_usage_stats": True}
        chunks = list(client.chat.completions.create(**request, stream=True, stream_options=usage))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == undrafted
        counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage is not None]
        assert counts == sorted(counts)
        assert counts[-1] == whole.usage.completion_tokens
        stopped = client.chat.completions.create(**request, stop=["a ferry"]).choices[0]
        assert stopped.message.content == undrafted.partition("a ferry")[0]
