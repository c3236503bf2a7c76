"""What a hub answers, played by a server here, and what people are told of it."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
T5 = json.dumps({"model_type": "t5", "is_encoder_decoder": True}).encode()


class Hub(ThreadingHTTPServer):
    """Answers every request with one status, or has a model that is an encoder-decoder."""

    daemon_threads = True

    def __init__(self, status=200, code=""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.status, self.code = status, code
        self.paths = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.paths.append(self.path)
        body = json.dumps({"id": "org/name", "sha": COMMIT, "siblings": []}).encode()
        if self.path.endswith("config.json"):
            body = T5
        self.send_response(self.server.status)
        for name, value in {
            "X-Error-Code": self.server.code,
            "X-Repo-Commit": COMMIT,
            "ETag": '"etag"',
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture
def download(tmp_path):
    """Asks a hub for org/name, which must fail; returns the line that is said, and what the hub was asked for."""

    def run(hub: Hub) -> tuple[str, list[str]]:
        thread = threading.Thread(target=hub.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{hub.server_port}"
            environment = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path / "hub")}
            done = subprocess.run(
                [sys.executable, "-m", "fast_inference.hub_download", "org/name"],
                env=os.environ | environment | {"HF_HUB_OFFLINE": "0"},
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
        finally:
            hub.shutdown()
            thread.join()
            hub.server_close()
        assert (done.returncode, done.stdout.count("\n")) == (1, 1), done.stderr
        return done.stdout.rstrip("\n"), hub.paths

    return run


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "the hub knows no such model (for a private one set HF_TOKEN)"),
        (403, "GatedRepo", "the hub gives it only to people who accepted its terms (set HF_TOKEN)"),
        (400, "", "it is neither a folder nor in the hub cache, and the hub says "),
    ],
)
def test_a_refusal_of_the_hub_is_one_line(download, status, code, message):
    assert download(Hub(status, code))[0].startswith(message)


def test_a_model_that_cannot_be_run_is_not_downloaded(download):
    said, paths = download(Hub())
    assert said == "t5 models cannot be run here: an encoder-decoder is not a decoder-only language model"
    assert {path for path in paths if path.startswith("/org/name")} == {"/org/name/resolve/main/config.json"}
