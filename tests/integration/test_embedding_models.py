"""A sentence encoder behind a whole server: its vectors over HTTP are those of transformers, and it gives no text.

`scripts/check_embeddings.py` compares a real model with sentence-transformers itself.
"""

import asyncio
import base64
import struct

import httpx
import pytest
import torch

from tests.sentence_encoders import MAX_SEQ_LENGTH, VOCABULARY, WORDS, reference_states, save_encoder, token_ids
from tests.servers import Server

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
TEXTS = [
    "a",
    "The cat sat on the mat.",
    "RAIN, sun & rain?",
    "ü 日本 Ünïcode 👩🏽 ﬁ",
    " \t spaces \n around  ",
    "unknown" * 40,
    *(" ".join(WORDS[(index + step) % 9] for step in range(index)) for index in range(1, 40)),
    *(LETTERS[start : start + 7] for start in range(0, 24, 4)),
    " ".join(["cat"] * (MAX_SEQ_LENGTH - 2)),
]
CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def server(folder, tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), str(folder), "--served-model-name", "encoder", "--threads", "1")
    yield server
    server.close()


@pytest.fixture(scope="module")
def expected(folder):
    """The normalized mean of each text alone, by transformers."""
    states = reference_states(folder, [token_ids(folder, text) for text in TEXTS])
    return torch.stack([torch.nn.functional.normalize(item.mean(dim=0), dim=0) for item in states])


@pytest.fixture
def http(server):
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


def embed(http, texts, **fields):
    answer = http.post("/v1/embeddings", json={"model": "encoder", "input": texts, **fields})
    assert answer.status_code == 200, answer.text
    return [item["embedding"] for item in answer.json()["data"]]


def assert_close(vectors, expected):
    assert (torch.tensor(vectors) - expected).abs().max() < 1e-5


def test_vectors_are_those_of_transformers_alone_and_in_one_body(http, expected):
    assert len(TEXTS) >= 50
    assert_close(embed(http, TEXTS), expected)
    for index in (0, 3, 5, len(TEXTS) - 1):
        assert_close(embed(http, TEXTS[index]), expected[index : index + 1])


def test_vectors_are_the_same_among_concurrent_requests(server, expected):
    async def run():
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            bodies = [{"model": "encoder", "input": TEXTS[index % 7 :: 7]} for index in range(28)]
            return await asyncio.gather(*(http.post("/v1/embeddings", json=body) for body in bodies))

    for index, answer in enumerate(asyncio.run(run())):
        assert_close([item["embedding"] for item in answer.json()["data"]], expected[index % 7 :: 7])


def test_ids_base64_and_fewer_dimensions(http, folder, expected):
    ids = token_ids(folder, TEXTS[1])
    assert_close(embed(http, [ids]), expected[1:2])
    (encoded,) = embed(http, ids, encoding_format="base64", dimensions=16)
    vector = struct.unpack("<16f", base64.b64decode(encoded))
    assert_close([vector], torch.nn.functional.normalize(expected[1:2, :16]))


def test_scores_and_rankings_are_cosines(http, expected):
    cosines = (expected[1:3] @ expected[0]).tolist()
    body = {"model": "encoder", "text_1": TEXTS[0], "text_2": TEXTS[1:3]}
    scores = [item["score"] for item in http.post("/v1/score", json=body).json()["data"]]
    assert scores == pytest.approx(cosines, abs=1e-5)
    body = {"model": "encoder", "query": TEXTS[0], "documents": TEXTS[1:3]}
    results = http.post("/v1/rerank", json=body).json()["results"]
    assert [item["relevance_score"] for item in results] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)


def test_a_text_that_is_too_long_is_refused_or_cut_between_its_special_tokens(http, folder):
    words = ["cat", "dog"] * MAX_SEQ_LENGTH
    body = {"model": "encoder", "input": " ".join(words)}
    error = http.post("/v1/embeddings", json=body).json()["error"]
    assert (error["status"], error["code"], error["param"]) == (400, "context_length_exceeded", "input")
    inner = [VOCABULARY.index(word) for word in words]
    begin, end = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")
    for side, kept in (("right", inner[:9]), ("left", inner[-9:])):
        cut = embed(http, body["input"], truncate_prompt_tokens=11, truncation_side=side)
        assert_close(cut, torch.tensor(embed(http, [[begin, *kept, end]])))


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", CHAT),
        ("/v1/chat/completions", {**CHAT, "stream": True}),
        ("/v1/completions", {"prompt": "hi"}),
        ("/v1/responses", {"input": "hi"}),
        ("/v1/messages", {**CHAT, "max_tokens": 5}),
    ],
)
def test_text_is_refused_for_the_model(http, path, body):
    answer = http.post(path, json={"model": "encoder", **body})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert "gives no text, only embeddings" in error["message"]
    if path != "/v1/messages":  # whose errors name no field
        assert (error["code"], error["param"]) == ("unsupported_parameter", "model")


def test_the_server_says_what_it_is(http, server):
    assert [model["id"] for model in http.get("/v1/models").json()["data"]] == ["encoder"]
    info = http.get("/server_info").json()
    assert info["model"]["can_generate"] is False
    assert (info["model"]["pooling"], info["model"]["dtype"], info["model"]["max_model_len"]) == ("mean", "float32", 48)
    assert http.get("/load").json()["kv_cache_usage"] == 0
    assert server.num_blocks == 0
