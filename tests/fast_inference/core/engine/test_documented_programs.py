"""The snippets of docs/extending.md and the programs in examples/ run as they are written, but for paths and ports."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.minimal_llm import cache_with_kernels, save_checkpoint
from tests.own_modules import byte_tokenizer
from tests.programs import Program, free_port, running
from tests.waiting import wait_until

ROOT = Path(__file__).parents[4]
SNIPPETS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/extending.md").read_text(), re.DOTALL | re.MULTILINE)
KEY = {"Authorization": "Bearer dummy"}


def snippets_with(text: str) -> list[str]:
    return [snippet for snippet in SNIPPETS if text in snippet]


def substituted(source: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in source
        source = source.replace(old, new)
    return source


def run_script(source: str, folder: Path) -> str:
    script = folder / "script.py"
    script.write_text(source)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


# --- your own routes -------------------------------------------------------------------------------------------------


def custom_endpoint_script(folder: Path, port: int) -> str:
    [source] = snippets_with("custom_endpoint")
    script = folder / "server.py"
    script.write_text(substituted(source, ('host="0.0.0.0", port=8000', f'host="127.0.0.1", port={port}')))
    return str(script)


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("app"), free_port()
    script = custom_endpoint_script(folder, port)
    names = {"MODEL_PATH": "fake", "MODEL_NAME": "my-custom-model", "FAST_INFERENCE_API_KEY": "dummy"}
    program = Program(folder, port, script, **names)
    try:
        program.wait_ready()
        yield program
        assert program.end() == 0
        assert list(program.temp_dir.iterdir()) == []
    finally:
        program.close()


def test_the_added_route_is_served(app):
    answer = httpx.post(f"{app.url}/v1/custom-endpoint", headers=KEY)
    assert (answer.status_code, answer.json()) == (200, {"message": "Custom endpoint"})
    assert "x-request-id" in answer.headers


def test_the_added_route_is_behind_key_and_limits(app):
    assert httpx.post(f"{app.url}/v1/custom-endpoint").json()["error"]["code"] == "invalid_api_key"
    assert httpx.post(f"{app.url}/v1/custom-endpoint", headers=KEY, content=bytes(5_000_000)).status_code == 413


def test_the_added_route_is_in_the_schema(app):
    assert "/v1/custom-endpoint" in httpx.get(f"{app.url}/openapi.json", headers=KEY).json()["paths"]


def test_the_model_has_the_name_of_the_environment(app):
    models = httpx.get(f"{app.url}/v1/models", headers=KEY).json()["data"]
    assert [model["id"] for model in models] == ["my-custom-model", "fake", "fast-inference-model"]


def test_the_client_snippets_run(app, tmp_path):
    clients = snippets_with("openai.OpenAI") + snippets_with("response = client")[1:]
    assert len(clients) == 4
    source = substituted("\n".join(clients), ("http://localhost:8000", app.url))
    assert run_script(source, tmp_path).endswith("Embedding dimension: 16\n")


def test_the_smoke_test_finds_a_whole_server(app):
    command = [sys.executable, str(ROOT / "examples/openai_api_example.py"), "--base-url", app.url]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("✓") == 9


def test_the_smoke_test_fails_where_there_is_none():
    command = [sys.executable, str(ROOT / "examples/openai_api_example.py")]
    command += ["--base-url", f"http://127.0.0.1:{free_port()}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert result.stdout.endswith("9 of 9 failed\n")


def test_a_core_that_dies_is_replaced(app):
    [core_pid] = app.child_pids
    os.kill(core_pid, signal.SIGKILL)
    body = {"model": "my-custom-model", "prompt": "one", "max_tokens": 4}
    wait_until(lambda: app.child_pids not in ([], [core_pid]), timeout_s=20)
    app.wait_ready()
    assert httpx.post(f"{app.url}/v1/completions", headers=KEY, json=body).status_code == 200


def test_a_model_that_is_not_there_ends_the_server(tmp_path):
    port = free_port()
    with running(tmp_path, port, custom_endpoint_script(tmp_path, port), MODEL_PATH="/nowhere") as program:
        assert program.process.wait(60) != 0
        assert "no model '/nowhere'" in program.log
        assert list(program.temp_dir.iterdir()) == []


# --- your own model --------------------------------------------------------------------------------------------------


def test_the_custom_engine_snippet_serves_a_checkpoint(tmp_path):
    [source] = snippets_with("path/to/your/model.pt")
    port = free_port()
    checkpoint, tokenizer_dir = tmp_path / "model.pt", tmp_path / "tokenizer"
    save_checkpoint(checkpoint, "A", vocab_size=256, max_seq_len=4096)
    tokenizer_dir.mkdir()
    byte_tokenizer().save(str(tokenizer_dir / "tokenizer.json"))
    source = substituted(
        source, ("path/to/your/model.pt", str(checkpoint)), ("path/to/your/tokenizer", str(tokenizer_dir))
    )
    script = tmp_path / "server.py"
    script.write_text(f"{source}\nserving_engine.serve(port={port})\n")
    with running(tmp_path, port, str(script), **cache_with_kernels(tmp_path)) as program:
        program.wait_ready()
        models = httpx.get(f"{program.url}/v1/models").json()["data"]
        assert [model["id"] for model in models] == ["my-custom-model", "fast-inference-model"]
        assert models[0]["max_model_len"] == 4096
        body = {"model": "my-custom-model", "prompt": "one", "max_tokens": 4}
        assert httpx.post(f"{program.url}/v1/completions", json=body).json()["usage"]["completion_tokens"] == 4
        assert program.end() == 0
        assert list(program.temp_dir.iterdir()) == []


def test_the_generating_snippet_runs(tmp_path):
    [source] = snippets_with("engine.generate(")
    begin = "from fast_inference.core.engine import create_universal_vllm_style_engine\n"
    printed = run_script(begin + substituted(source, ("smollm2-135m-instruct", "fake")), tmp_path)
    assert printed


def test_the_custom_model_example_generates_and_serves(tmp_path):
    port = free_port()
    argv = [str(ROOT / "examples/custom_model.py"), "--serve", "--port", str(port)]
    with running(tmp_path, port, *argv, PYTHONUNBUFFERED="1") as program:
        program.wait_ready()
        body = {"model": "tiny-model", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
        answer = httpx.post(f"{program.url}/v1/chat/completions", json=body).json()
        assert answer["usage"]["completion_tokens"] > 0
        assert re.search(r"whole: +['\"]", program.log)
        assert program.end() == 0
