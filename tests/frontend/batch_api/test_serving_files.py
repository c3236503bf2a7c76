"""The files endpoints in this process: what they keep, refuse and forget."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frontend.batch_api.state_dir import StateDir
from tests.frontend.test_access import app_with, client_of

LINES = b'{"custom_id": "a"}\n' * 3


@pytest.fixture
def state_dir(tmp_path: Path) -> StateDir:
    state_dir = StateDir(tmp_path / "state")
    state_dir.create()
    return state_dir


def talk(state_dir: StateDir, conversation: Callable[[httpx.AsyncClient], Awaitable[None]], **config: Any) -> None:
    async def run() -> None:
        async with client_of(app_with(state_dir.path, state_dir=state_dir.path, **config)) as http:
            await conversation(http)

    asyncio.run(run())


async def upload(http: httpx.AsyncClient, content: bytes = LINES, **fields: str) -> httpx.Response:
    values = {"purpose": "batch", **fields}
    return await http.post("/v1/files", files={"file": ("lines.jsonl", content)}, data=values)


def left_over(state_dir: StateDir) -> list[str]:
    """Content that is there."""
    return [name for folder in ("uploads", "files") for name in os.listdir(state_dir.path / folder)]


def test_a_file_comes_back_as_it_was_and_goes_when_it_is_deleted(state_dir):
    async def conversation(http):
        content = os.urandom(300_000) + b"\r\n--" + os.urandom(300_000)
        file = (await upload(http, content)).json()
        assert file["bytes"] == len(content)
        assert (file["object"], file["filename"], file["purpose"]) == ("file", "lines.jsonl", "batch")
        assert (await http.get(f"/v1/files/{file['id']}")).json() == file
        answer = await http.get(f"/v1/files/{file['id']}/content")
        assert answer.content == content
        part = await http.get(f"/v1/files/{file['id']}/content", headers={"range": "bytes=5-9"})
        assert (part.status_code, part.content) == (206, content[5:10])
        deleted = await http.delete(f"/v1/files/{file['id']}")
        assert deleted.json() == {"id": file["id"], "object": "file", "deleted": True}
        for again in (http.get, http.delete):
            gone = await again(f"/v1/files/{file['id']}")
            assert (gone.status_code, gone.json()["error"]["code"]) == (404, "file_not_found")

    talk(state_dir, conversation)
    assert left_over(state_dir) == []


def test_files_outlive_the_process(state_dir):
    seen = []

    async def first(http):
        seen.append((await upload(http)).json())

    async def second(http):
        assert (await http.get("/v1/files")).json()["data"] == seen

    talk(state_dir, first)
    talk(state_dir, second)


def test_lists_come_in_pages(state_dir):
    async def conversation(http):
        ids = [(await upload(http, purpose=purpose)).json()["id"] for purpose in ("batch", "user_data", "batch")]
        page = (await http.get("/v1/files", params={"limit": 2})).json()
        assert ([file["id"] for file in page["data"]], page["has_more"]) == (ids[:0:-1], True)
        rest = (await http.get("/v1/files", params={"after": page["last_id"]})).json()
        assert ([file["id"] for file in rest["data"]], rest["has_more"]) == (ids[:1], False)
        batch = (await http.get("/v1/files", params={"purpose": "batch", "order": "asc"})).json()
        assert [file["id"] for file in batch["data"]] == [ids[0], ids[2]]

    talk(state_dir, conversation)


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("order=up", "order"),
        ("purpose=all", "purpose"),
        ("after=file-none", "after"),
    ],
)
def test_wrong_queries_are_refused(state_dir, query, param):
    async def conversation(http):
        answer = await http.get(f"/v1/files?{query}")
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)

    talk(state_dir, conversation)


FILE_PART = 'content-disposition: form-data; name="file"; filename="f"\r\n\r\nx'
PURPOSE_PART = 'content-disposition: form-data; name="purpose"\r\n\r\nbatch'


def form(*parts: str, end: str = "--") -> bytes:
    return ("".join(f"--b\r\n{part}\r\n" for part in parts) + f"--b{end}\r\n").encode()


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (form(PURPOSE_PART), "file", "missing_required_parameter"),
        (form(FILE_PART), "purpose", "missing_required_parameter"),
        (form(FILE_PART, PURPOSE_PART.replace("batch", "fine-tune")), "purpose", "invalid_value"),
        (form(FILE_PART, FILE_PART, PURPOSE_PART), "file", "invalid_value"),
        (form(FILE_PART, PURPOSE_PART, PURPOSE_PART), "purpose", "invalid_value"),
        (form(FILE_PART, PURPOSE_PART.replace("batch", "b" * 70_000)), None, "invalid_value"),
        (form(FILE_PART, *(PURPOSE_PART.replace("purpose", f"p{n}") for n in range(20))), None, "invalid_value"),
        (form(FILE_PART, PURPOSE_PART, end=""), None, "invalid_form"),
        (b"no form", None, "invalid_form"),
        (b"", None, "invalid_form"),
    ],
    ids=range(10),
)
def test_wrong_forms_are_refused_and_leave_nothing(state_dir, body, param, code):
    async def conversation(http):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        answer = await http.post("/v1/files", content=body, headers=headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"], error["code"]) == (400, param, code)

    talk(state_dir, conversation)
    assert left_over(state_dir) == []


@given(body=st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
def test_no_body_is_a_server_error(state_dir, body):
    async def conversation(http):
        headers = {"content-type": "multipart/form-data; boundary=b"}
        for junk in (body, b"--b\r\n" + body, form(FILE_PART, PURPOSE_PART)[: len(body)]):
            assert (await http.post("/v1/files", content=junk, headers=headers)).status_code == 400

    talk(state_dir, conversation)


def test_a_file_that_is_too_large_is_refused_whether_its_length_is_declared_or_not(state_dir):
    async def conversation(http):
        declared = await upload(http, bytes(200_000))
        assert (declared.status_code, declared.json()["error"]["code"]) == (413, "body_too_large")
        assert (await upload(http, bytes(5000))).json()["error"]["param"] == "file"

        request = http.build_request("POST", "/v1/files", files={"file": bytes(2000)}, data={"purpose": "batch"})
        body = request.read()
        headers = {"content-type": request.headers["content-type"]}

        async def pieces():
            for start in range(0, len(body), 100):
                yield body[start : start + 100]

        assert (await http.post("/v1/files", content=pieces(), headers=headers)).status_code == 413

    talk(state_dir, conversation, max_file_bytes=1024)
    assert left_over(state_dir) == []


def test_files_may_be_larger_than_other_bodies(state_dir):
    async def conversation(http):
        assert (await upload(http, bytes(50_000))).json()["bytes"] == 50_000
        assert (await http.post("/v1/batches", content=bytes(5000))).status_code == 413

    talk(state_dir, conversation, max_body_bytes=1024)


def test_the_name_of_a_file_cannot_be_a_path(state_dir):
    async def conversation(http):
        answer = await http.post("/v1/files", files={"file": ("../../x\\y.jsonl", b"x")}, data={"purpose": "batch"})
        assert answer.json()["filename"] == ".._.._x_y.jsonl"

    talk(state_dir, conversation)


def test_an_expiry_is_kept_and_checked(state_dir):
    async def conversation(http):
        expiry = {"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}
        file = (await upload(http, **expiry)).json()
        assert file["expires_at"] == file["created_at"] + 3600
        wrong = await upload(http, **{**expiry, "expires_after[seconds]": "5"})
        assert wrong.json()["error"]["param"] == "expires_after.seconds"

    talk(state_dir, conversation)


def test_unknown_fields_are_named(state_dir):
    async def conversation(http):
        answer = await upload(http, colour="red")
        assert (answer.status_code, answer.headers["x-ignored-params"]) == (200, "colour")

    talk(state_dir, conversation)


def test_json_is_no_form(state_dir):
    async def conversation(http):
        answer = await http.post("/v1/files", json={"purpose": "batch"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_media_type")

    talk(state_dir, conversation)


def test_forms_that_cannot_be_read_cost_no_descriptors(state_dir):
    async def conversation(http):
        await upload(http)  # opens the database
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            headers = {"content-type": f"multipart/form-data; boundary={'b' * 257}"}
            answer = await http.post("/v1/files", content=form(FILE_PART), headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_form")
        assert len(os.listdir("/proc/self/fd")) == len(before)

    talk(state_dir, conversation)


@pytest.mark.parametrize(
    "asked", ["bytes=57-", "bytes=9-5", "bytes=-", "bytes=-0", "bytes=0-1,4-5", "bytes", "lines=1-2", "bytes=x-y", ""]
)
def test_a_part_that_cannot_be_given_is_the_whole_file(state_dir, asked):
    async def conversation(http):
        file = (await upload(http)).json()
        answer = await http.get(f"/v1/files/{file['id']}/content", headers={"range": asked})
        assert (answer.status_code, answer.content) == (200, LINES)

    talk(state_dir, conversation)


@pytest.mark.parametrize(("asked", "expected"), [("bytes=56-", b"\n"), ("bytes=-2", b"}\n"), ("bytes=0-999", LINES)])
def test_a_part_of_a_file(state_dir, asked, expected):
    async def conversation(http):
        file = (await upload(http)).json()
        answer = await http.get(f"/v1/files/{file['id']}/content", headers={"range": asked})
        assert (answer.status_code, answer.content) == (206, expected)

    assert len(LINES) == 57
    talk(state_dir, conversation)


def test_content_that_is_being_deleted_is_not_found(state_dir):
    async def conversation(http):
        file = (await upload(http)).json()
        state_dir.remove_file(file["id"])
        answer = await http.get(f"/v1/files/{file['id']}/content")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "file_not_found")

    talk(state_dir, conversation)


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://evil.example", 403), ("null", 403), ("http://[", 403), ("http://x", 200), ("http://good", 200)],
)
def test_a_page_of_another_origin_cannot_upload(state_dir, origin, status):
    async def conversation(http):
        answer = await http.post(
            "/v1/files", files={"file": b"x"}, data={"purpose": "batch"}, headers={"origin": origin}
        )
        assert answer.status_code == status

    talk(state_dir, conversation, allowed_origins=("http://good",))


def test_a_key_sees_only_its_own_files(state_dir):
    async def conversation(http):
        def as_key(key: str) -> dict[str, str]:
            return {"authorization": f"Bearer {key}"}

        form = {"files": {"file": b"x"}, "data": {"purpose": "batch"}}
        file = (await http.post("/v1/files", headers=as_key("one"), **form)).json()
        for key, status in (("one", 200), ("two", 404), ("root", 200)):
            for path in (f"/v1/files/{file['id']}", f"/v1/files/{file['id']}/content"):
                assert (await http.get(path, headers=as_key(key))).status_code == status
            listed = (await http.get("/v1/files", headers=as_key(key))).json()["data"]
            assert bool(listed) == (status == 200)
        assert (await http.delete(f"/v1/files/{file['id']}", headers=as_key("two"))).status_code == 404

    talk(state_dir, conversation, api_key=("one", "two"), admin_api_key=("root",))


def test_without_a_state_dir_every_route_says_so(tmp_path):
    async def run() -> None:
        async with client_of(app_with(tmp_path)) as http:
            for method, path in (("GET", "/v1/files"), ("GET", "/v1/batches/x"), ("POST", "/v1/files")):
                answer = await http.request(method, path)
                assert (answer.status_code, answer.json()["error"]["code"]) == (404, "batch_api_disabled")

    asyncio.run(run())
