"""The names under which the model is served."""

import asyncio
from collections.abc import Iterator

import httpx
import pytest

from tests.frontend.applications import application
from tests.processes import CoreProcess, core_process


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoreProcess]:
    with core_process(tmp_path_factory.mktemp("run"), max_model_len=512) as core:
        yield core


def get(core: CoreProcess, path: str) -> httpx.Response:
    async def run() -> httpx.Response:
        async with application(core.run_dir, served_model_name=("org/name", "alias")) as served:
            return await served.http.get(path)

    return asyncio.run(run())


def card(name: str) -> dict[str, object]:
    return {
        "id": name,
        "object": "model",
        "created": 1,
        "owned_by": "fast-inference",
        "root": "org/name",
        "parent": None,
        "max_model_len": 512,
    }


def test_all_names_are_listed_in_their_order(core: CoreProcess):
    assert get(core, "/v1/models").json() == {"object": "list", "data": [card("org/name"), card("alias")]}


@pytest.mark.parametrize("name", ["org/name", "alias"])
def test_one_name_which_may_have_slashes(core: CoreProcess, name: str):
    assert get(core, f"/v1/models/{name}").json() == card(name)


@pytest.mark.parametrize(
    "name",
    [
        "other",
        "org",
        "org/name/more",
        "Alias",
        "%00",
        "x" * 500,
        "%2e%2e%2fetc/passwd",
        "..%2f..%2f",
        "%2Fetc%2Fpasswd",
    ],
)
def test_other_names_are_not_found(core: CoreProcess, name: str):
    answer = get(core, f"/v1/models/{name}")
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
