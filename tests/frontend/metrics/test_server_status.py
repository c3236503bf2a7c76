"""Series from the launcher's file."""

import json
from dataclasses import asdict, replace

import pytest

from fast_inference.status import CoreStatus, FrontendStatus, LauncherStatus, Restarts, ServerState, Status, StatusFile
from frontend.metrics.server_status import LauncherValues, values_of_status
from ipc.metric_series import series_key

STATUS = Status(
    ServerState.READY,
    LauncherStatus(1),
    CoreStatus(2, 7, "ready", restarts={"hang": 2}),
    (FrontendStatus(3, 80, "ready"), FrontendStatus(4, 80, "starting")),
    "http://h:80",
    restarts=Restarts((2, 3)),
)


def test_restarts_and_frontends_are_those_of_the_file(tmp_path):
    StatusFile(tmp_path / "status.json").write(STATUS)
    values = values_of_status(tmp_path / "status.json")
    assert values.of_server == {"frontends": 1, "frontend_restarts_total": 5}
    restarts = {
        reason: values.of_cores["0"][series_key("core_restarts_total", reason)] for reason in ("signal", "hang", "exit")
    }
    assert restarts == {"signal": 0, "hang": 2, "exit": 0}


def test_what_was_restarted_is_still_known_when_the_server_has_stopped(tmp_path):
    file = StatusFile(tmp_path / "status.json")
    file.write(replace(STATUS))
    file.write_stopped()
    of_cores = values_of_status(tmp_path / "status.json").of_cores
    assert of_cores["0"][series_key("core_restarts_total", "hang")] == 2


def test_each_of_several_cores_has_its_restarts(tmp_path):
    cores = [{"name": "0", "restarts": {}}, {"name": "b2", "restarts": {"signal": 3}}]
    (tmp_path / "status.json").write_text(json.dumps({**asdict(STATUS), "cores": cores}))
    of_cores = values_of_status(tmp_path / "status.json").of_cores
    assert [of_cores[name][series_key("core_restarts_total", "signal")] for name in ("0", "b2")] == [0, 3]


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"core": {"restarts": 3}}', "\xff"])
def test_a_file_that_is_not_there_or_says_something_else_gives_nothing(tmp_path, content):
    if content is not None:
        (tmp_path / "status.json").write_text(content, encoding="latin-1")
    assert values_of_status(tmp_path / "status.json") == LauncherValues()
    assert values_of_status(None) == LauncherValues()
