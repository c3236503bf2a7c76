"""Texts and JSON say what was measured, and what failed."""

import json

import pytest

from fast_inference.bench.load import LoadResult
from fast_inference.bench.measurement import Measurement, Plan
from fast_inference.bench.metrics import summarize
from fast_inference.bench.report import (
    comparison_report,
    latency_report,
    load_report,
    report_as_json,
    throughput_report,
)
from fast_inference.bench.target import RequestOptions, Target
from fast_inference.bench.workload import Load, RandomPrompts
from tests.fast_inference.bench.test_metrics import FAILED, answer

LOAD = Load(num_prompts=2, input_len=100, output_len=2, concurrency=8)


def measurement(name: str, *rounds_s: float, failed: int = 0, load: Load = LOAD) -> Measurement:
    results = [(answer(seconds, [seconds]),) + (FAILED,) * failed for seconds in rounds_s]
    rounds = [summarize(LoadResult(result, 2.0 * s, 0.0)) for result, s in zip(results, rounds_s, strict=True)]
    return Measurement(load, Target(name, "h", 1, model="m"), rounds)


def test_one_load_has_all_its_numbers():
    lines = load_report(measurement("a", 0.5, failed=1)).splitlines()
    assert lines[:3] == [
        "concurrency 8: 2 requests, 100 in, 2 out",
        "  completed 1, failed 1, duration 1.00 s",
        "  requests/s 1.00, output tok/s 2.0, total tok/s 12.0",
    ]
    assert [line.split() for line in lines[3:8]] == [
        ["ms", "mean", "median", "p90", "p99"],
        ["TTFT", *["500.00"] * 4],
        ["TPOT", *["500.00"] * 4],
        ["ITL", *["500.00"] * 4],
        ["E2EL", *["1000.00"] * 4],
    ]
    assert lines[8:] == ["  1 failed: HTTP 429 queue_full: the first"]


def test_a_load_in_which_all_failed_has_no_times():
    broken = Measurement(LOAD, Target("a", "h", 1), [summarize(LoadResult((FAILED,), 1.0, 0.0))])
    lines = load_report(broken).splitlines()
    assert lines[4].split() == ["TTFT", "-", "-", "-", "-"]


def test_a_comparison_has_a_row_for_each_server_and_its_ratio():
    report = comparison_report([measurement("ours", 0.5, 0.5), measurement("peer", 1.0, 0.75, failed=2)]).splitlines()
    rows = [line.split() for line in report]
    assert rows[1][6:10] == ["ours", "0", "2.0", "500.0"]
    assert rows[2][:4] == ["peer", "4", "1.2", "875.0"]
    assert rows[3][:4] == ["ours/peer", "1.71x", "(1.50-2.00)", "0.57x"]
    assert report[-1] == "peer, concurrency 8: 4 failed: HTTP 429 queue_full: the first"


def test_loads_are_told_apart_even_where_they_are_equal():
    twice = [measurement(name, 1.0, load=Load(2, 100, 2, concurrency=8)) for name in ("a", "b")]
    other = [measurement(name, 1.0, load=LOAD) for name in ("a", "b")]
    for pair in (twice, other):
        pair[1].load = pair[0].load
    report = comparison_report([*twice, *other])
    assert report.count("a/b") == 2


def test_latency_and_throughput_have_a_row_for_each_load():
    loads = [measurement("a", 0.5), measurement("a", 0.25, load=Load(1, 7, 3, concurrency=1))]
    latency, throughput = latency_report(loads).splitlines(), throughput_report(loads).splitlines()
    assert latency[1].split()[:4] == ["100", "2", "500.00", "500.00"]
    assert latency[2].split()[:4] == ["7", "3", "250.00", "250.00"]
    assert throughput[1].split() == ["100", "2", "1", "1.00", "1.00", "2.00", "12.00"]


def test_json_has_rounds_medians_and_ratios():
    measurements = [measurement("ours", 0.5, 0.5), measurement("peer", 1.0, 1.0, failed=1)]
    source = RandomPrompts(5)
    plan = Plan([m.target for m in measurements], [LOAD], source, source, RequestOptions(), 5, 2)
    report = json.loads(json.dumps(report_as_json(plan, measurements, ["bench", "serve"])))
    assert report["servers"][1] == {"name": "peer", "url": "http://h:1", "model": "m"}
    assert (report["seed"], report["command"]) == (5, ["bench", "serve"])
    ours, peer = report["results"]
    assert (ours["ratios"], ours["median"]["median_ttft_ms"]) == ({}, pytest.approx(500))
    assert peer["ratios"]["output_throughput"]["of_medians"] == pytest.approx(2)
    assert peer["load"] | {"name": "concurrency 8", "concurrency": 8, "input_len": 100} == peer["load"]
    assert [turn["failures"] for turn in peer["rounds"]] == [{"HTTP 429 queue_full": 1}] * 2
