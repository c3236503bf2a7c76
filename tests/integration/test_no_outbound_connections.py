"""No request makes the server connect to anything, whatever addresses and names are in it.

Every process of the server notes what its Python code connects to or looks up (an audit hook), and the kernel's table
is searched for connections to the address in the requests, which belongs to nobody (RFC 5737).
"""

import os
from pathlib import Path

import pytest

from tests.servers import ROOT, Server

ADDRESS, ADDRESS_IN_TABLE = "192.0.2.1", "010200C0"
URL = f"http://{ADDRESS}/x.png"
NAME_URL = "http://outbound.invalid/x.png"
HOOK = """
import os, sys
def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request"):
        with open(os.environ["AUDIT_FILE"], "a") as file:
            file.write(f"{event} {arguments}\\n")
sys.addaudithook(note)
with open(os.environ["AUDIT_FILE"], "a") as file:
    file.write(f"process {os.getpid()}\\n")
"""


@pytest.fixture(scope="module")
def audit_file(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("audit") / "events"


@pytest.fixture(scope="module")
def server(tmp_path_factory, audit_file):
    folder = tmp_path_factory.mktemp("outbound")
    (audit_file.parent / "sitecustomize.py").write_text(HOOK)
    paths = os.pathsep.join((str(audit_file.parent), str(ROOT)))
    server = Server(folder, "fake", "--frontends", "1", AUDIT_FILE=str(audit_file), PYTHONPATH=paths)
    yield server
    server.close()


def chat(content: object, **fields: object) -> tuple[str, dict[str, object]]:
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": content}], "max_tokens": 5, **fields}


def bodies(url: str) -> list[tuple[str, dict[str, object]]]:
    schema = {"type": "object", "properties": {"a": {"$ref": url}}, "$schema": url, "$id": url}
    image = {"type": "image_url", "image_url": {"url": url}}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    return [
        chat(f"![image]({url}) <img src='{url}'>"),
        chat([{"type": "text", "text": url}, image]),
        chat([{"type": "input_audio", "input_audio": {"data": url, "format": "wav"}}]),
        chat("hi", response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}),
        chat("hi", tools=[{"type": "function", "function": {"name": "a", "description": url, "parameters": schema}}]),
        chat("hi", web_search_options={}, user=url, metadata={"callback": url}),
        ("/v1/completions", {"prompt": url, "max_tokens": 5, "suffix": url}),
        ("/v1/embeddings", {"input": [url]}),
        ("/tokenize", {"prompt": url}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}),
        ("/v1/responses", {"input": "hi", "tools": [{"type": "mcp", "server_label": "a", "server_url": url}]}),
        ("/v1/messages", {"messages": [{"role": "user", "content": [source]}], "max_tokens": 5}),
    ]


def connections_in(audit_file: Path) -> list[str]:
    """Events of all processes; grammars are compiled in some of their own."""
    return [line for line in audit_file.read_text().splitlines() if not line.startswith("process ")]


@pytest.mark.parametrize("url", [URL, NAME_URL, "file:///etc/passwd"])
def test_no_request_makes_the_server_connect(server, audit_file, url):
    heard_at_start = connections_in(audit_file)
    with server.http() as http:
        for path, body in bodies(url):
            answer = http.post(path, json={"model": "fake", **body}, headers={"referer": URL, "origin": URL})
            assert answer.status_code < 500, (path, answer.text)
            assert "root:" not in answer.text
        assert http.post("/v1/completions", json={"model": url, "prompt": "hi"}).status_code == 404
        assert http.get(f"/v1/models/{url}").status_code == 404
    assert ADDRESS_IN_TABLE not in Path("/proc/net/tcp").read_text()
    assert connections_in(audit_file) == heard_at_start


def test_the_hook_is_in_every_process(server, audit_file):
    """The launcher looked up its own address when it started."""
    heard = audit_file.read_text().splitlines()
    assert {f"process {pid}" for pid in server.child_pids} <= set(heard)
    assert any(line.startswith("socket.getaddrinfo") for line in heard)
