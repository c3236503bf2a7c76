"""The call METRICS of a real core."""

import pytest

from engine_core.metrics.core_snapshot import CoreSnapshot
from ipc.messages import CallMethod, ClientMetrics, ClientRole, Load
from ipc.metric_families import FAMILIES, MetricKind, MetricOrigin
from ipc.metric_series import FAMILY_OF_SAMPLE, SEPARATOR, series_key
from ipc.sync_client import SyncEngineClient
from tests.factories import make_params
from tests.processes import core_process, stats
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def core(tmp_path_factory):
    with core_process(tmp_path_factory.mktemp("run")) as core:
        yield core


def answered(status: str) -> str:
    return series_key("http_requests_total", "/v1/models", "GET", status)


def test_it_is_answered_while_a_step_runs(tmp_path):
    with core_process(tmp_path, fake_step_ms=60_000) as core:
        client = core.connect()
        client.submit([1, 2, 3], make_params())
        wait_until(lambda: client.call(CallMethod.METRICS)["core_step_age_seconds"] > 0)
        values = client.call(CallMethod.METRICS, timeout_s=5)
        assert (values["kv_blocks"], values["generation_tokens_total"]) == (64, 0)


def test_an_idle_core_knows_every_series_without_labels_of_its_own(core):
    known = {FAMILY_OF_SAMPLE[key.split(SEPARATOR)[0]].name for key in core.connect().call(CallMethod.METRICS)}
    of_core = {family.name for family in FAMILIES.values() if family.origin is MetricOrigin.CORE}
    assert of_core - known == {"aborts_total", "lora_requests_info"}


def test_what_a_client_counted_outlives_it_and_its_gauges_do_not(core):
    client = core.connect()
    with SyncEngineClient(core.run_dir.core_socket, name="other", role=ClientRole.FRONTEND) as other:
        other.wait_ready(10)
        other.send(ClientMetrics({answered("200"): 2}, {"http_open_streams": 5}))
        wait_until(lambda: client.call(CallMethod.METRICS).get("http_open_streams") == 5)
    wait_until(lambda: "http_open_streams" not in client.call(CallMethod.METRICS))
    assert client.call(CallMethod.METRICS)[answered("200")] == 2


def test_a_report_of_what_no_client_counts_is_a_bad_message(core):
    client = core.connect()
    num_before = client.call(CallMethod.METRICS)["ipc_bad_messages_total"]
    client.send(ClientMetrics({answered("404"): 1, "generation_tokens_total": 10**9}))
    wait_until(lambda: stats(client)["num_bad_messages"] == num_before + 1)
    values = client.call(CallMethod.METRICS)
    assert (values["ipc_bad_messages_total"], values["generation_tokens_total"]) == (num_before + 1, 0)
    assert answered("404") not in values


@pytest.mark.parametrize(
    "counters",
    [
        {series_key("rejects_total", "huge"): 2**64 - 1},
        {series_key("rejects_total", f"reason {number}"): 1 for number in range(2**15)},
        {series_key("http_request_duration_seconds_bucket", f"/{number}", "GET", "0.01"): 1 for number in range(2**15)},
    ],
    ids=["sums no reply can hold", "more counters than a reply holds", "more histograms than a scrape may have"],
)
def test_whatever_a_client_reports_others_still_count_and_are_answered(tmp_path, counters):
    with core_process(tmp_path) as core:
        client, junk = core.connect(), core.connect()
        own = ClientMetrics({"http_connections_refused_total": 1}, {"http_open_streams": 3})
        client.send(own)
        client.call(CallMethod.PING)
        for _ in range(2):
            junk.send(ClientMetrics(counters))
        junk.call(CallMethod.PING)
        client.send(own)
        values = client.call(CallMethod.METRICS)
        assert (values["http_connections_refused_total"], values["http_open_streams"]) == (2, 3)
        assert len(values) < 10_000


def test_every_counter_ends_in_total_and_nothing_else_does():
    for family in FAMILIES.values():
        assert family.name.endswith("_total") is (family.kind is MetricKind.COUNTER)


def test_a_counter_of_broken_connections_never_falls():
    """It is a difference of two numbers that do not change together."""
    snapshot = CoreSnapshot()
    seen = []
    for num_bad_messages in (3, 2, 4):
        values = snapshot.values(
            Load(), [], step_age_s=0, num_bad_messages=num_bad_messages, num_cut_connections=0, num_refused_keys=0
        )
        seen.append(values["ipc_bad_messages_total"])
    assert seen == [3, 3, 4]
