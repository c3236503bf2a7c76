"""The batches endpoints in this process, without a runner: what is taken on, refused, shown and cancelled."""

from typing import Any

import httpx
import pytest

from frontend.batch_api.state_dir import StateDir
from frontend.batch_api.store import StateStore
from tests.frontend.batch_api.test_serving_files import LINES, talk, upload
from tests.frontend.batch_api.test_store import make_state_dir


@pytest.fixture
def state_dir(tmp_path) -> StateDir:
    return make_state_dir(tmp_path)


async def create(http: httpx.AsyncClient, **values: Any) -> httpx.Response:
    if "input_file_id" not in values:
        values["input_file_id"] = (await upload(http)).json()["id"]
    body = {"endpoint": "/v1/chat/completions", "completion_window": "24h", **values}
    return await http.post("/v1/batches", json={name: value for name, value in body.items() if value is not ...})


def test_a_new_batch_is_validating_and_has_all_fields_of_openai(state_dir):
    async def conversation(http):
        batch = (await create(http, metadata={"for": "me"})).json()
        assert batch["status"] == "validating"
        assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        assert batch["expires_at"] - batch["created_at"] == 24 * 3600
        assert (batch["metadata"], batch["errors"], batch["usage"]) == ({"for": "me"}, None, None)
        assert (await http.get(f"/v1/batches/{batch['id']}")).json() == batch

    talk(state_dir, conversation)


@pytest.mark.parametrize(
    ("values", "param", "code"),
    [
        ({"input_file_id": "file-none"}, "input_file_id", "file_not_found"),
        ({"input_file_id": ...}, "input_file_id", "missing_required_parameter"),
        ({"endpoint": "/v1/images"}, "endpoint", "invalid_value"),
        ({"completion_window": "1h"}, "completion_window", "invalid_value"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 1}},
            "output_expires_after.seconds",
            "invalid_value",
        ),
    ],
    ids=range(8),
)
def test_wrong_batches_are_refused_and_leave_nothing(state_dir, values, param, code):
    async def conversation(http):
        answer = await create(http, **values)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
        assert (await http.get("/v1/batches")).json()["data"] == []

    talk(state_dir, conversation)
    assert list((state_dir.path / "jobs").iterdir()) == []


def test_the_input_must_be_meant_for_a_batch(state_dir):
    async def conversation(http):
        file = (await upload(http, purpose="user_data")).json()
        answer = await create(http, input_file_id=file["id"])
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input_file_id")

    talk(state_dir, conversation)


def test_a_batch_keeps_its_input_when_the_file_is_deleted(state_dir):
    async def conversation(http):
        batch = (await create(http)).json()
        assert (await http.delete(f"/v1/files/{batch['input_file_id']}")).status_code == 200
        assert (state_dir.job(batch["id"]) / "input.jsonl").read_bytes() == LINES

    talk(state_dir, conversation)


def test_what_has_not_begun_is_cancelled_at_once(state_dir):
    async def conversation(http):
        batch = (await create(http)).json()
        for _ in range(2):
            cancelled = (await http.post(f"/v1/batches/{batch['id']}/cancel")).json()
            assert cancelled["status"] == "cancelled"
        assert not state_dir.job(batch["id"]).exists()

    talk(state_dir, conversation)


def test_what_has_ended_cannot_be_cancelled(state_dir):
    async def conversation(http):
        batch = (await create(http)).json()
        with StateStore(state_dir) as store:
            store.fail(batch["id"], [], num_total=0, now=1)
        answer = await http.post(f"/v1/batches/{batch['id']}/cancel")
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "invalid_batch_status")

    talk(state_dir, conversation)


def test_lists_come_in_pages(state_dir):
    async def conversation(http):
        ids = [(await create(http)).json()["id"] for _ in range(3)]
        page = (await http.get("/v1/batches?limit=2")).json()
        assert ([batch["id"] for batch in page["data"]], page["has_more"]) == (ids[:0:-1], True)
        rest = (await http.get("/v1/batches", params={"after": page["last_id"]})).json()
        assert ([batch["id"] for batch in rest["data"]], rest["has_more"]) == (ids[:1], False)
        wrong = await http.get("/v1/batches?after=batch_none")
        assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "after")

    talk(state_dir, conversation)


def test_a_key_sees_only_its_own_batches_and_no_file_of_others(state_dir):
    async def conversation(http):
        http.headers["x-api-key"] = "one"
        batch = (await create(http)).json()
        http.headers["x-api-key"] = "two"
        for method, path in (("GET", ""), ("POST", "/cancel")):
            answer = await http.request(method, f"/v1/batches/{batch['id']}{path}")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "batch_not_found")
        assert (await http.get("/v1/batches")).json()["data"] == []
        stolen = await create(http, input_file_id=batch["input_file_id"])
        assert (stolen.status_code, stolen.json()["error"]["code"]) == (400, "file_not_found")
        http.headers["x-api-key"] = "root"
        assert (await http.get("/v1/batches")).json()["data"] == [batch]

    talk(state_dir, conversation, api_key=("one", "two"), admin_api_key=("root",))
