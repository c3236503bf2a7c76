"""What Prometheus and Grafana are given: their own tools accept it, and every metric in it is one that there is."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipc.metric_families import DEFAULT_PREFIX, FAMILIES, MetricKind

FOLDER = Path(__file__).parents[2] / "configs" / "observability"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "fast-inference.json"
METRIC = re.compile(r"\b(?:fast_inference|http|process)_[a-z0-9_]+")
SUFFIXES = {MetricKind.HISTOGRAM: ("_bucket", "_sum", "_count")}
NAMES = {
    family.full_name(DEFAULT_PREFIX) + suffix
    for family in FAMILIES.values()
    for suffix in SUFFIXES.get(family.kind, ("",))
}


def promtool(*arguments: str, folder: Path = FOLDER) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def expressions_of_the_dashboard() -> list[str]:
    dashboard = json.loads(DASHBOARD.read_text())
    targets = [target for panel in dashboard["panels"] for target in panel.get("targets", ())]
    variables = [item["definition"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    return (
        [target["expr"] for target in targets] + variables + [note["expr"] for note in dashboard["annotations"]["list"]]
    )


def expressions_of_the_alerts() -> list[str]:
    groups = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def test_promtool_accepts_the_configuration_and_the_rules():
    promtool("check", "config", "prometheus.yml")
    promtool("check", "rules", "alerts.yml")


def test_promtool_accepts_the_configuration_for_a_server_with_keys(tmp_path):
    text = (FOLDER / "prometheus.yml").read_text()
    key = tmp_path / "key"
    key.write_text("sk-test")
    for line in ("authorization:", "  credentials_file: /etc/prometheus/fast-inference-key"):
        assert f"    # {line}\n" in text
        text = text.replace(f"    # {line}\n", f"    {line}\n")
    (tmp_path / "prometheus.yml").write_text(text.replace("/etc/prometheus/fast-inference-key", str(key)))
    shutil.copy(FOLDER / "alerts.yml", tmp_path)
    promtool("check", "config", "prometheus.yml", folder=tmp_path)


def test_alerts_fire_where_they_should():
    promtool("test", "rules", "alerts.test.yml", folder=Path(__file__).parent)


@pytest.mark.parametrize(
    "expressions", [expressions_of_the_dashboard(), expressions_of_the_alerts()], ids=["dashboard", "alerts"]
)
def test_every_metric_that_is_asked_for_is_one_that_there_is(expressions):
    asked = {name for expression in expressions for name in METRIC.findall(expression)}
    assert asked
    assert asked - NAMES == set()


def test_expressions_of_the_dashboard_are_promql(tmp_path):
    """By promtool, which checks rules."""
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
        for number, expression in enumerate(expressions_of_the_dashboard())
        if not expression.startswith("label_values(")
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "rules.yml", folder=tmp_path)


def test_panels_of_the_dashboard_have_names_places_and_a_data_source():
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert panel["title"]
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"]


def test_grafana_finds_the_dashboard_and_its_data_source():
    """The folders are those that docker-compose.yml mounts."""
    [provider] = yaml.safe_load((FOLDER / "grafana/provisioning/dashboards/fast-inference.yml").read_text())[
        "providers"
    ]
    assert provider["options"]["path"] == "/var/lib/grafana/dashboards"
    [source] = yaml.safe_load((FOLDER / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
