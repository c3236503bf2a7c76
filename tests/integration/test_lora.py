"""A server with adapters, talked to through the real OpenAI client."""

import concurrent.futures
import os
import shutil
import signal
import subprocess
import sys

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from engine_core.model.fake_runner import VOCAB_SIZE, write_fake_tokenizer
from tests.lora_adapters import make_adapter, merge_adapter
from tests.servers import ROOT, Server, StartingServer
from tests.waiting import wait_until

PROMPT = "The quick brown fox jumps over the lazy dog, and once more over the same one."
NUM_TOKENS = 16
NAMES = ("base", "one", "two")
FLAGS = ("--dtype", "float32", "--served-model-name", "base", "--block-size", "16", "--num-blocks", "64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model that speaks bytes in `model`, adapters in `one` and `two`, merged models in `…-merged`."""
    folder = tmp_path_factory.mktemp("lora")
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=VOCAB_SIZE - 1,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    write_fake_tokenizer(folder / "model")
    for seed, name in enumerate(NAMES[1:]):
        adapter = make_adapter(folder / name, folder / "model", seed=seed)
        merge_adapter(folder / f"{name}-merged", folder / "model", adapter)
    return folder


@pytest.fixture(scope="module")
def expected(folder):
    """The answer of each name, by transformers with merged weights."""
    answers = {}
    for name in NAMES:
        network = AutoModelForCausalLM.from_pretrained(folder / ("model" if name == "base" else f"{name}-merged"))
        network.generation_config.eos_token_id = None
        ids = torch.tensor([list(PROMPT.encode())])
        how = {"attention_mask": torch.ones_like(ids), "do_sample": False, "pad_token_id": 0}
        answers[name] = network.generate(ids, max_new_tokens=NUM_TOKENS, **how)[0, ids.shape[1] :].tolist()
    assert len({tuple(answer) for answer in answers.values()}) == 3
    return answers


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    shutil.copytree(folder / "one", folder / "changing")
    lora = [part for name in (*NAMES[1:], "changing") for part in ("--lora", f"{name}={folder / name}")]
    server = Server(tmp_path_factory.mktemp("server"), str(folder / "model"), *FLAGS, *lora)
    yield server
    server.close()


@pytest.fixture
def client(server):
    with server.openai() as client:
        yield client


def ask(client: openai.OpenAI, name: str) -> openai.types.Completion:
    more = {"ignore_eos": True, "return_token_ids": True}
    return client.completions.create(
        model=name, prompt=PROMPT, max_tokens=NUM_TOKENS, temperature=0, seed=1, extra_body=more
    )


def tokens_of(chunk: openai.types.Completion) -> list[int]:
    """None in the last chunk."""
    return getattr(chunk.choices[0], "token_ids", None) or []


def test_answers_of_one_batch_are_those_of_merged_models(client, expected):
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda name: ask(client, name), NAMES * 4))
    for name, answer in zip(NAMES * 4, answers, strict=True):
        assert answer.model == name
        assert answer.choices[0].token_ids == expected[name]


def test_adapters_are_listed_with_their_parent(client):
    cards = {card.id: card for card in client.models.list()}
    assert list(cards) == [*NAMES, "changing"]
    assert [cards[name].parent for name in NAMES] == [None, "base", "base"]
    assert client.models.retrieve("two").root == "two"
    with pytest.raises(openai.NotFoundError) as refusal:
        ask(client, "three")
    assert refusal.value.code == "model_not_found"


def test_every_endpoint_takes_the_name_of_an_adapter(client, server):
    messages = [{"role": "user", "content": "Hello"}]
    chat = {name: client.chat.completions.create(model=name, messages=messages, max_tokens=5) for name in NAMES}
    assert [answer.model for answer in chat.values()] == list(NAMES)
    stream = client.chat.completions.create(model="one", messages=messages, max_tokens=5, stream=True)
    assert {chunk.model for chunk in stream} == {"one"}
    assert client.responses.create(model="one", input="Hello", max_output_tokens=16).model == "one"
    vectors = [client.embeddings.create(model=name, input="Hello").data[0].embedding for name in NAMES]
    assert vectors[0] != vectors[1] != vectors[2]
    with server.http() as http:
        body = {"model": "two", "messages": messages, "max_tokens": 5}
        assert http.post("/v1/messages", json=body).json()["model"] == "two"
        assert http.post("/tokenize", json={"model": "two", "prompt": "Hello"}).json()["count"] == 5
        assert http.get("/server_info").json()["model"]["adapters"] == ["one", "two", "changing"]


def test_a_stream_goes_on_with_its_adapter_after_the_death_of_the_core(client, server, expected):
    more = {"ignore_eos": True, "return_token_ids": True}
    stream = client.completions.create(
        model="two", prompt=PROMPT, max_tokens=400, temperature=0, stream=True, extra_body=more
    )
    chunks, token_ids = iter(stream), []
    while len(token_ids) < 3:
        token_ids += tokens_of(next(chunks))
    pid = server.core_pid
    os.kill(pid, signal.SIGKILL)
    for chunk in chunks:
        token_ids += tokens_of(chunk)
    assert len(token_ids) == 400
    assert token_ids[:NUM_TOKENS] == expected["two"]
    assert server.core_pid != pid


@pytest.mark.parametrize(
    ("flag", "named"),
    [("base={}/one", "the model itself is served under the name base"), ("x={}/no", "adapter_model.safetensors")],
)
def test_a_server_with_a_wrong_adapter_does_not_start(folder, tmp_path, flag, named):
    server = StartingServer(tmp_path, str(folder / "model"), *FLAGS, "--lora", flag.format(folder))
    wait_until(lambda: server.process.poll() is not None)
    server.close()
    assert server.process.returncode == 1
    [error] = server.errors
    assert error.startswith("error: --lora")
    assert named in error


def test_a_reload_reads_adapters_anew(folder, server, client, expected):
    assert ask(client, "changing").choices[0].token_ids == expected["one"]
    shutil.copytree(folder / "two", folder / "changing", dirs_exist_ok=True)
    argv = [sys.executable, "-m", "fast_inference", "reload", "--run-dir", str(server.run_dir)]
    subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, timeout=60)
    assert ask(client, "changing").choices[0].token_ids == expected["two"]
