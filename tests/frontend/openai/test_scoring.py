"""`/v1/score` and `/v1/rerank`: which texts are compared, in which form the answers come, and what is refused."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from frontend.openai.scoring import cosine
from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process

SCORE, RERANK, EMBED = "/v1/score", "/v1/rerank", "/v1/embeddings"
TEXTS = ["alpha", "beta", "gamma", "delta"]


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


def post(core: CoreProcess, *requests: tuple[str, dict[str, Any]], **headers: str) -> list[httpx.Response]:
    async def run() -> list[httpx.Response]:
        async with application(core.run_dir) as served:
            return [
                await served.http.post(path, json={"model": "fake", **body}, headers=headers) for path, body in requests
            ]

    return asyncio.run(run())


def vectors_of(answer: httpx.Response) -> list[list[float]]:
    return [item["embedding"] for item in answer.json()["data"]]


def test_one_text_is_compared_to_each(core: CoreProcess):
    embedded, answer = post(core, (EMBED, {"input": TEXTS}), (SCORE, {"text_1": TEXTS[0], "text_2": TEXTS[1:]}))
    first, *others = vectors_of(embedded)
    body = answer.json()
    assert [item["score"] for item in body["data"]] == pytest.approx([cosine(first, other) for other in others])
    assert [(item["index"], item["object"]) for item in body["data"]] == [(n, "score") for n in range(3)]
    num_tokens = sum(map(len, TEXTS))
    assert body["usage"] == {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    assert (body["object"], body["model"], body["id"].startswith("score-")) == ("list", "fake", True)


def test_as_many_texts_are_compared_pair_by_pair(core: CoreProcess):
    embedded, answer = post(core, (EMBED, {"input": TEXTS}), (SCORE, {"text_1": TEXTS[:2], "text_2": TEXTS[2:]}))
    alpha, beta, gamma, delta = vectors_of(embedded)
    scores = [item["score"] for item in answer.json()["data"]]
    assert scores == pytest.approx([cosine(alpha, gamma), cosine(beta, delta)])


@pytest.mark.parametrize(("left", "right"), [("queries", "documents"), ("queries", "items"), ("data_1", "data_2")])
def test_both_sides_have_other_names(core: CoreProcess, left: str, right: str):
    known, other, wrong, unequal = post(
        core,
        (SCORE, {"text_1": TEXTS[0], "text_2": TEXTS[1:]}),
        (SCORE, {left: TEXTS[0], right: TEXTS[1:]}),
        (SCORE, {left: TEXTS[0], right: "a" * 4097}),
        (SCORE, {left: TEXTS, right: TEXTS[1:]}),
    )
    assert other.json()["data"] == known.json()["data"]
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, right)
    assert (unequal.status_code, unequal.json()["error"]["param"]) == (400, left)


def test_the_id_may_be_chosen(core: CoreProcess):
    score, ranking, wrong = post(
        core,
        (SCORE, {"text_1": "a", "text_2": "b", "request_id": "mine"}),
        (RERANK, {"query": "a", "documents": ["b"], "request_id": "mine"}),
        (RERANK, {"query": "a", "documents": ["b"], "request_id": "not mine"}),
    )
    assert (score.json()["id"], ranking.json()["id"]) == ("score-mine", "rerank-mine")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "request_id")


def test_a_text_is_like_itself_and_is_computed_once(core: CoreProcess):
    async def run() -> tuple[httpx.Response, int]:
        async with application(core.run_dir) as served:
            client = served.state.client
            before = next(client._request_ids)
            body = {"model": "fake", "text_1": "same", "text_2": ["same"] * 5}
            answer = await served.http.post("/score", json=body)
            return answer, next(client._request_ids) - before - 1

    answer, num_requests = asyncio.run(run())
    assert [item["score"] for item in answer.json()["data"]] == pytest.approx([1.0] * 5)
    assert num_requests == 1
    assert answer.json()["usage"]["total_tokens"] == 6 * len("same")


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_documents_come_best_first(core: CoreProcess, path: str):
    embedded, answer = post(core, (EMBED, {"input": ["query", *TEXTS]}), (path, {"query": "query", "documents": TEXTS}))
    query, *documents = vectors_of(embedded)
    scores = [cosine(query, document) for document in documents]
    order = sorted(range(4), key=lambda index: -scores[index])
    body = answer.json()
    assert [item["index"] for item in body["results"]] == order
    assert [item["relevance_score"] for item in body["results"]] == pytest.approx([scores[index] for index in order])
    assert [item["document"] for item in body["results"]] == [{"text": TEXTS[index]} for index in order]
    assert body["usage"]["total_tokens"] == len("query") + sum(map(len, TEXTS))
    assert body["id"].startswith("rerank-")


def test_equal_documents_keep_their_order(core: CoreProcess):
    (answer,) = post(core, (RERANK, {"query": "q", "documents": ["x", "x", "x"]}))
    assert [item["index"] for item in answer.json()["results"]] == [0, 1, 2]


def test_documents_may_be_objects_with_a_text(core: CoreProcess):
    plain, objects = post(
        core,
        (RERANK, {"query": "q", "documents": TEXTS}),
        (RERANK, {"query": "q", "documents": [TEXTS[0], {"text": TEXTS[1]}, {"text": TEXTS[2], "x": 1}, TEXTS[3]]}),
    )
    assert objects.json()["results"] == plain.json()["results"]
    assert objects.headers["x-ignored-params"] == "documents.2.x"


@pytest.mark.parametrize(("top_n", "count"), [(1, 1), (3, 3), (4, 4), (5, 4), (2**31 - 1, 4), (None, 4)])
def test_top_n_takes_the_best(core: CoreProcess, top_n: int | None, count: int):
    all_of_them, some = post(
        core,
        (RERANK, {"query": "q", "documents": TEXTS}),
        (RERANK, {"query": "q", "documents": TEXTS, "top_n": top_n, "return_documents": False}),
    )
    expected = [{key: item[key] for key in ("index", "relevance_score")} for item in all_of_them.json()["results"]]
    assert some.json()["results"] == expected[:count]


def test_the_end_of_texts_can_be_cut(core: CoreProcess):
    cutting = {"truncate_prompt_tokens": 3, "truncation_side": "right"}
    whole, cut = post(
        core,
        (RERANK, {"query": "xyz", "documents": ["abc"], "return_documents": False}),
        (RERANK, {"query": "xyz123", "documents": ["abc7"], "return_documents": False, **cutting}),
    )
    assert cut.json()["results"] == whole.json()["results"]
    assert cut.json()["usage"] == whole.json()["usage"]


def test_texts_can_be_cut(core: CoreProcess):
    whole, cut = post(
        core,
        (SCORE, {"text_1": "xyz", "text_2": ["abc"]}),
        (SCORE, {"text_1": "123xyz", "text_2": ["7abc"], "truncate_prompt_tokens": 3}),
    )
    assert cut.json()["data"] == whole.json()["data"]
    assert cut.json()["usage"] == whole.json()["usage"]


@pytest.mark.parametrize(
    ("path", "change", "param", "code"),
    [
        (SCORE, {"text_1": None}, "text_1", "missing_required_parameter"),
        (SCORE, {"text_2": None}, "text_2", "missing_required_parameter"),
        (SCORE, {"text_1": None, "text_2": None}, "text_1", "missing_required_parameter"),
        (SCORE, {"text_1": None, "text_2": None, "queries": "a"}, "documents", "missing_required_parameter"),
        (SCORE, {"text_1": None, "text_2": None, "items": "a"}, "queries", "missing_required_parameter"),
        (SCORE, {"text_1": None, "text_2": None, "data_2": "a"}, "data_1", "missing_required_parameter"),
        (SCORE, {"queries": "a"}, "queries", "invalid_value"),
        (SCORE, {"text_2": None, "documents": "a"}, "documents", "invalid_value"),
        (
            SCORE,
            {"text_1": None, "text_2": None, "queries": "a", "documents": "a", "items": "a"},
            "items",
            "invalid_value",
        ),
        (SCORE, {"text_1": None, "text_2": None, "queries": "a", "items": ["a", 1]}, "items", "invalid_type"),
        (
            SCORE,
            {"text_1": None, "text_2": None, "query": "a", "items": ["a"]},
            "queries",
            "missing_required_parameter",
        ),
        (SCORE, {"label_token_ids": [1, 2]}, "label_token_ids", "unsupported_parameter"),
        (SCORE, {"truncation_side": "middle"}, "truncation_side", "invalid_value"),
        (SCORE, {"text_1": ["a", "b"]}, "text_1", "invalid_value"),
        (SCORE, {"text_1": ["a", "b"], "text_2": ["a", "b", "c"]}, "text_1", "invalid_value"),
        (SCORE, {"text_1": ""}, "text_1", "invalid_value"),
        (SCORE, {"text_2": []}, "text_2", "invalid_value"),
        (SCORE, {"text_2": ["a", ""]}, "text_2", "invalid_value"),
        (SCORE, {"text_2": ["a", 1]}, "text_2", "invalid_type"),
        (SCORE, {"text_2": {"text": "a"}}, "text_2", "invalid_type"),
        (SCORE, {"text_2": ["a"] * 2049}, "text_2", "invalid_value"),
        (SCORE, {"text_2": "a" * 4097}, "text_2", "context_length_exceeded"),
        (SCORE, {"use_activation": True}, "use_activation", "unsupported_parameter"),
        (SCORE, {"dimensions": 4}, "dimensions", "unsupported_parameter"),
        (SCORE, {"model": "other"}, "model", "model_not_found"),
        (SCORE, {"user": "u" * 513}, "user", "invalid_value"),
        (SCORE, {"add_special_tokens": 1}, "add_special_tokens", "invalid_type"),
        (SCORE, {"truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value"),
        (SCORE, {"truncate_prompt_tokens": 4097}, "truncate_prompt_tokens", "invalid_value"),
        (RERANK, {"query": None}, "query", "missing_required_parameter"),
        (RERANK, {"query": ""}, "query", "invalid_value"),
        (RERANK, {"query": ["a"]}, "query", "invalid_type"),
        (RERANK, {"query": "a" * 4097}, "query", "context_length_exceeded"),
        (RERANK, {"documents": []}, "documents", "invalid_value"),
        (RERANK, {"documents": "a"}, "documents", "invalid_type"),
        (RERANK, {"documents": [""]}, "documents", "invalid_value"),
        (RERANK, {"documents": [{"text": ""}]}, "documents", "invalid_value"),
        (RERANK, {"documents": [{"title": "a"}]}, "documents", "invalid_type"),
        (RERANK, {"documents": [["a"]]}, "documents", "invalid_type"),
        (RERANK, {"documents": ["a"] * 2049}, "documents", "invalid_value"),
        (RERANK, {"documents": ["a" * 4097]}, "documents", "context_length_exceeded"),
        (RERANK, {"top_n": 0}, "top_n", "invalid_value"),
        (RERANK, {"return_documents": "yes"}, "return_documents", "invalid_type"),
        (RERANK, {"max_tokens_per_doc": 10}, "max_tokens_per_doc", "unsupported_parameter"),
        (RERANK, {"rank_fields": ["title"]}, "rank_fields", "unsupported_parameter"),
        (RERANK, {"return_embeddings": True}, "return_embeddings", "unsupported_parameter"),
    ],
)
def test_what_is_wrong_is_named(core: CoreProcess, path: str, change: Any, param: str, code: str):
    base = {SCORE: {"text_1": "a", "text_2": "b"}, RERANK: {"query": "a", "documents": ["b"]}}[path]
    (answer,) = post(core, (path, {**base, **change}))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (404 if param == "model" else 400, param, code)


def test_what_asks_for_nothing_is_accepted(core: CoreProcess):
    neutral = {"use_activation": False, "rank_fields": ["text"], "truncation": False, "return_embeddings": False}
    (answer,) = post(core, (RERANK, {"query": "a", "documents": ["b"], **neutral}))
    assert answer.status_code == 200
    assert "x-ignored-params" not in answer.headers


@pytest.mark.parametrize(("left", "right", "expected"), [([1.0], [1.0000001], 1.0), ([1.0], [-1.0000001], -1.0)])
def test_a_cosine_stays_in_its_range(left: list[float], right: list[float], expected: float):
    assert cosine(left, right) == expected
