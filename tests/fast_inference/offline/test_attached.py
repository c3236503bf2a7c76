"""`LLM(attach=…)`: what a server's core answers is what the server answers over HTTP."""

import os
import signal

import pytest

from fast_inference import LLM, SamplingParams
from ipc.errors import EngineUnavailableError
from tests.processes import stats
from tests.servers import Server
from tests.waiting import wait_until

GREEDY = SamplingParams(temperature=0.0, max_tokens=12, logprobs=2, ignore_eos=True)
FIELDS = {"model": "fake", "temperature": 0.0, "max_tokens": 12, "extra_body": {"ignore_eos": True}}
HELLO = [{"role": "user", "content": "hello"}]


def test_texts_are_those_of_the_api(server, attached):
    [output] = attached.generate(["one"], GREEDY)
    with server.openai() as client:
        choice = client.completions.create(prompt="one", logprobs=2, **FIELDS).choices[0]
    answer = output.outputs[0]
    assert (answer.text, answer.finish_reason) == (choice.text, choice.finish_reason)
    own = [entries[token_id] for token_id, entries in zip(answer.token_ids, answer.logprobs, strict=True)]
    assert [entry.logprob for entry in own] == choice.logprobs.token_logprobs
    assert [entry.decoded_token for entry in own] == choice.logprobs.tokens


def test_chats_are_those_of_the_api(server, attached):
    [output] = attached.chat(HELLO, GREEDY)
    with server.openai() as client:
        choice = client.chat.completions.create(messages=HELLO, **FIELDS).choices[0]
    assert output.outputs[0].text == choice.message.content


def test_vectors_are_those_of_the_api(server, attached):
    outputs = attached.embed(["one", "two"])
    with server.openai() as client:
        data = client.embeddings.create(model="fake", input=["one", "two"], encoding_format="float").data
    assert [output.outputs.embedding for output in outputs] == [item.embedding for item in data]


def test_it_is_a_batch_client_and_leaves_the_server_as_it_was(server):
    before = server.core_pid
    with server.connect() as client:
        with LLM(attach=str(server.run_dir)) as llm:
            assert len(llm.generate(["one"] * 100, SamplingParams(max_tokens=2))) == 100
            assert llm._client.state.client._cores._role.name == "BATCH"
        wait_until(lambda: not stats(client)["num_running"])
    assert server.core_pid == before


def test_its_process_is_told_of_as_a_program(server, attached):
    attached.generate(["one"], SamplingParams(max_tokens=2))
    with server.http() as http:
        wait_until(lambda: 'process_resident_memory_bytes{role="program"}' in http.get("/metrics").text)


def test_a_core_that_dies_is_waited_for(server, attached):
    def prompts():
        for number in range(60):
            if number == 30:
                os.kill(server.core_pid, signal.SIGKILL)
            yield f"prompt {number}"

    killed = server.core_pid
    outputs = attached.generate(prompts(), GREEDY)
    expected = attached.generate([f"prompt {number}" for number in range(60)], GREEDY)
    assert [output.outputs[0].token_ids for output in outputs] == [out.outputs[0].token_ids for out in expected]
    assert server.core_pid != killed


def test_the_end_of_the_server_ends_the_calls(tmp_path):
    server = Server(tmp_path, "fake", "--frontends", "1", "--fake-step-ms", "5", "--drain-timeout", "0")
    try:
        with LLM(attach=server.run_dir) as llm:
            outputs = llm.generate_each(
                (f"prompt {number}" for number in range(100_000)), SamplingParams(max_tokens=50, ignore_eos=True)
            )
            next(outputs)
            server.process.send_signal(signal.SIGTERM)
            with pytest.raises(EngineUnavailableError, match="has ended"):
                list(outputs)
            with pytest.raises(EngineUnavailableError, match="has ended"):
                llm.generate("one")
    finally:
        server.close()
