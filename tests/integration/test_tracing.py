"""Traces of a real server, as a collector gets them: one for each request, across frontend and engine core."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc.endpoints import RunDir
from tests.otlp_collector import Collector, ReceivedSpan, running_collector
from tests.processes import ROOT
from tests.servers import Server
from tests.waiting import wait_until

PARENT_ID = "00f067aa0ba902b7"
SECRET = "what nobody else may read"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 5, "ignore_eos": True}
FRONTEND, CORE = "fast-inference-frontend", "fast-inference-core"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[Server]:
    """Two frontends and a core that send their spans at once; 2 ms a step."""
    folder = tmp_path_factory.mktemp("traced")
    flags = ["--fake-step-ms", "2", "--otlp-traces-endpoint", collector.base_url]
    flags += ["--served-model-name", "the-model", "--served-model-name", "fake"]
    server = Server(folder, "fake", *flags, OTEL_BSP_SCHEDULE_DELAY="20")
    yield server
    server.close()


def traceparent(trace_id: str, flags: str = "01") -> dict[str, str]:
    return {"traceparent": f"00-{trace_id}-{PARENT_ID}-{flags}"}


def trace(collector: Collector, trace_id: str, num_spans: int) -> dict[str, ReceivedSpan]:
    """The spans of a trace by name, once there are so many; more are a failure."""
    wait_until(lambda: len(collector.of_trace(trace_id)) >= num_spans)
    spans = collector.of_trace(trace_id)
    assert len(spans) == num_spans, [span.name for span in spans]
    return {span.name: span for span in spans}


def test_a_streamed_chat_is_six_spans_of_one_trace(server: Server, collector: Collector):
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    with server.http() as http:
        body = {**CHAT, "stream": True, "temperature": 0.5}
        answer = http.post("/v1/chat/completions", json=body, headers=traceparent(trace_id))
    assert answer.text.endswith("data: [DONE]\n\n")
    spans = trace(collector, trace_id, 6)
    request, chat, core = spans["POST /v1/chat/completions"], spans["chat fake"], spans["llm_request"]
    assert (request.service, request.parent_id) == (FRONTEND, PARENT_ID)
    assert (chat.service, chat.parent_id) == (FRONTEND, request.span_id)
    assert (core.service, core.parent_id) == (CORE, chat.span_id)
    phases = [spans[name] for name in ("queue", "prefill", "decode")]
    assert {(span.service, span.parent_id) for span in phases} == {(CORE, core.span_id)}
    assert request.attributes["http.response.status_code"] == 200
    answer_id = json.loads(answer.text.partition("data: ")[2].partition("\n")[0])["id"]
    num_prompt_tokens = chat.attributes["gen_ai.usage.input_tokens"]
    assert num_prompt_tokens > len(SECRET)
    assert chat.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fast_inference",
        "gen_ai.request.model": "fake",
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.request.n": 1,
        "gen_ai.request.stream": True,
        "gen_ai.response.id": answer_id,
        "fast_inference.request_id": answer.headers["x-request-id"],
        "fast_inference.cores": ["0"],
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": num_prompt_tokens,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 0,
    }
    assert core.attributes["gen_ai.request.id"] == answer_id
    assert core.attributes["gen_ai.response.model"] == "the-model"  # its first name
    assert core.attributes["gen_ai.usage.input_tokens"] == num_prompt_tokens
    assert core.attributes["gen_ai.usage.output_tokens"] == 5
    latency = {name: core.attributes[f"gen_ai.latency.{name}"] for name in ("time_to_first_token", "e2e")}
    assert 0.002 <= latency["time_to_first_token"] < latency["e2e"]


def test_the_times_of_spans_follow_each_other(server: Server, collector: Collector):
    trace_id = "1" * 32
    with server.http() as http:
        began_ns = time.time_ns()
        http.post("/v1/chat/completions", json=CHAT, headers=traceparent(trace_id))
        ended_ns = time.time_ns()
    spans = trace(collector, trace_id, 6)
    core, queue, prefill, decode = (spans[name] for name in ("llm_request", "queue", "prefill", "decode"))
    assert began_ns <= core.begin_ns == queue.begin_ns
    assert queue.end_ns == prefill.begin_ns
    assert prefill.end_ns == decode.begin_ns
    assert decode.end_ns <= core.end_ns <= ended_ns
    assert decode.end_ns - decode.begin_ns >= 4 * 2_000_000  # four steps behind the first token


def test_prompts_and_answers_are_in_no_span(server: Server, collector: Collector):
    trace_id = "2" * 32
    with server.http() as http:
        body = {**CHAT, "max_tokens": 20, "stop": ["STOP"]}
        text = http.post("/v1/chat/completions", json=body, headers=traceparent(trace_id)).json()
    content = text["choices"][0]["message"]["content"]
    assert len(content) > 10
    for span in trace(collector, trace_id, 6).values():
        for said in (SECRET, content[:10], "STOP"):
            assert said.encode() not in span.raw


def test_a_stop_string_is_an_ordinary_end(server: Server, collector: Collector):
    trace_id = "3" * 32
    with server.http() as http:
        whole = http.post("/v1/completions", json={"model": "fake", "prompt": "x", "max_tokens": 20}).json()
        stop = whole["choices"][0]["text"][5:7]
        body = {"model": "fake", "prompt": "x", "max_tokens": 20, "stop": stop}
        http.post("/v1/completions", json=body, headers=traceparent(trace_id))
    spans = trace(collector, trace_id, 6)
    for name in ("text_completion fake", "llm_request"):
        assert spans[name].attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert spans[name].status == "unset"


def test_a_refused_request_is_a_span_with_its_error(server: Server, collector: Collector):
    trace_id = "5" * 32
    with server.http() as http:
        body = {**CHAT, "max_tokens": 10**9}
        answer = http.post("/v1/chat/completions", json=body, headers=traceparent(trace_id))
    assert answer.status_code == 400
    spans = trace(collector, trace_id, 2)
    assert spans["chat fake"].attributes["error.type"] == answer.json()["error"]["code"]
    assert spans["chat fake"].status == "error"


def test_a_failure_in_the_engine_is_an_error_in_both_services(server: Server, collector: Collector):
    trace_id = "c" * 32
    with server.http() as http:
        body = {**CHAT, "max_tokens": 1000, "timeout": 0.05}
        answer = http.post("/v1/chat/completions", json=body, headers=traceparent(trace_id))
    assert answer.status_code == 504
    wait_until(lambda: {"chat fake", "llm_request"} <= {span.name for span in collector.of_trace(trace_id)})
    spans = {span.name: span for span in collector.of_trace(trace_id)}
    for name in ("chat fake", "llm_request"):
        assert (spans[name].status, spans[name].attributes["error.type"]) == ("error", "timeout")


def test_a_client_that_leaves_a_stream_leaves_a_trace(server: Server, collector: Collector):
    trace_id = "6" * 32
    body = {**CHAT, "stream": True, "max_tokens": 1000}
    with (
        server.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body, headers=traceparent(trace_id)) as answer,
    ):
        next(answer.iter_lines())
    spans = trace(collector, trace_id, 6)
    assert spans["chat fake"].attributes["error.type"] == "cancelled"
    assert spans["llm_request"].attributes["gen_ai.response.finish_reasons"] == ["abort"]


def test_many_answers_to_one_request_have_a_bounded_number_of_spans(server: Server, collector: Collector):
    trace_id = "7" * 32
    with server.http() as http:
        body = {"model": "fake", "prompt": ["x"] * 10, "n": 2, "max_tokens": 1}
        http.post("/v1/completions", json=body, headers=traceparent(trace_id))
    wait_until(lambda: len(collector.of_trace(trace_id)) >= 2 + 16 * 3)  # one token: queue and prefill
    names = [span.name for span in collector.of_trace(trace_id)]
    assert names.count("llm_request") == 16


def test_embeddings_are_traced_too(server: Server, collector: Collector):
    trace_id = "d" * 32
    with server.http() as http:
        body = {"model": "fake", "input": [f"text {number}" for number in range(20)]}
        usage = http.post("/v1/embeddings", json=body, headers=traceparent(trace_id)).json()["usage"]
    wait_until(lambda: len(collector.of_trace(trace_id)) >= 2 + 16 * 3)
    spans = collector.of_trace(trace_id)
    [embeddings] = [span for span in spans if span.name == "embeddings fake"]
    assert embeddings.attributes["gen_ai.usage.input_tokens"] == usage["prompt_tokens"]
    assert {span.parent_id for span in spans if span.name == "llm_request"} == {embeddings.span_id}
    assert [span.name for span in spans].count("llm_request") == 16


def test_what_a_client_does_not_sample_and_probes_leave_nothing(server: Server, collector: Collector):
    unsampled, probed, last = "8" * 32, "9" * 32, "a" * 32
    with server.http() as http:
        http.post("/v1/chat/completions", json=CHAT, headers=traceparent(unsampled, flags="00"))
        http.get("/health", headers=traceparent(probed))
        for _ in server.frontend_pids:
            http.post("/v1/chat/completions", json=CHAT, headers=traceparent(last))
    wait_until(lambda: len(collector.of_trace(last)) == 6 * len(server.frontend_pids))
    assert collector.of_trace(unsampled) == collector.of_trace(probed) == []


def test_headers_of_traces_that_are_junk_leave_nothing_in_the_log(server: Server, collector: Collector):
    """OpenTelemetry's propagators write a line for each wrong member, of which there may be a hundred and more."""
    junk, trace_id = "junk of a client", "c" * 32
    headers = {"baggage": ",".join([junk] * 100), "tracestate": f"{junk}={junk}"} | traceparent(trace_id)
    bad_parents = ["", junk, f"ff-{trace_id}-{PARENT_ID}-01", f"00-{'0' * 32}-{PARENT_ID}-01"]
    with server.http() as http:
        for bad_parent in bad_parents:
            assert http.get("/v1/models", headers={"traceparent": bad_parent}).status_code == 200
        assert http.get("/v1/models", headers=headers).status_code == 200
    wait_until(lambda: collector.of_trace(trace_id) != [])
    assert "junk" not in server.stderr


def test_a_stream_that_loses_its_core_goes_on_in_its_trace_and_counts_on(server: Server, collector: Collector):
    trace_id, killed = "b" * 32, server.core_pid
    body = {**CHAT, "max_tokens": 500, "stream": True, "timings": True}
    with (
        server.http() as http,
        http.stream("POST", "/v1/chat/completions", json=body, headers=traceparent(trace_id)) as answer,
    ):
        lines = answer.iter_lines()
        while '"content":""' in (line := next(lines)) or not line:
            pass  # until there is text
        os.kill(killed, signal.SIGKILL)
        chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    spans = trace(collector, trace_id, 6)  # of the core that ended it; the other one took its own along
    assert spans["llm_request"].parent_id == spans["chat fake"].span_id
    timings = chunks[-1]["timings"]
    assert timings["predicted_n"] == 500
    in_second_life_ms = (spans["llm_request"].end_ns - spans["llm_request"].begin_ns) / 1e6
    assert timings["decode_ms"] > in_second_life_ms > 0
    wait_until(lambda: server.core_pid not in (killed, None))


def test_missing_packages_stop_the_start_with_one_line(tmp_path: Path):
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['opentelemetry.sdk'] = None\n")
    command = [sys.executable, str(ROOT / "scripts/launch.py"), "fake", "--port", "0"]
    command += ["--run-dir", str(tmp_path / "run"), "--otlp-traces-endpoint", "http://127.0.0.1:1"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.endswith("pip install fast-inference[otel]")


CORE_PROGRAM = """
from engine_core.core_server import CoreServer
core = CoreServer(config_file, on_io_failure=lambda: None)
core.load()
core.close()
"""
FRONTEND_PROGRAM = """
from frontend.__main__ import build_server
build_server(config_file, 0)
"""


@pytest.mark.parametrize(
    ("program", "unwanted"),
    [
        (CORE_PROGRAM, ("opentelemetry", "google.protobuf", "requests")),
        (FRONTEND_PROGRAM, ("opentelemetry.sdk", "opentelemetry.exporter", "google.protobuf", "requests")),
    ],
    ids=["core", "frontend"],  # FastAPI imports `opentelemetry.trace` itself
)
def test_without_an_endpoint_nothing_of_the_exporter_is_imported(tmp_path: Path, program: str, unwanted: tuple[str]):
    run_dir = RunDir(tmp_path / "run")
    run_dir.create()
    run_dir.config_file.write_text(json.dumps({"model": "fake"}))
    given = f"import sys\nfrom pathlib import Path\nconfig_file = Path({str(run_dir.config_file)!r})\n"
    show = "print(*sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", given + program + show], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert [name for name in done.stdout.split() if name.startswith(unwanted)] == []


def test_a_dead_collector_costs_nothing_but_a_warning(tmp_path: Path):
    flags = ["--frontends", "1", "--otlp-traces-endpoint", "http://127.0.0.1:1"]
    environment = {"OTEL_BSP_SCHEDULE_DELAY": "20", "OTEL_EXPORTER_OTLP_TIMEOUT": "0.1"}
    server = Server(tmp_path, "fake", *flags, **environment)
    try:
        with server.http() as http:
            for _ in range(5):
                assert http.post("/v1/chat/completions", json=CHAT).status_code == 200
        wait_until(lambda: server.stderr.count("spans are lost: http://127.0.0.1:1/v1/traces") >= 2)  # both processes
        assert server.process.poll() is None
    finally:
        server.close()
    assert server.process.returncode == 0
    assert "Traceback" not in server.stderr
