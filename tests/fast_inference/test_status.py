"""status.json: what it holds, and that it is never half written."""

import json

from fast_inference.status import CoreStatus, FrontendStatus, LauncherStatus, ServerState, Status, StatusFile

CORE, SECOND_CORE = CoreStatus(2, 7, "ready"), CoreStatus(4, 8, "ready", name="1", cpus="2-3")
STATUS = Status(
    ServerState.READY,
    LauncherStatus(1),
    CORE,
    (FrontendStatus(3, 80, "ready"),),
    "http://h:80",
    cores=(CORE, SECOND_CORE),
)


def test_the_file_has_the_documented_fields(tmp_path):
    StatusFile(tmp_path / "status.json").write(STATUS)
    core = {"pid": 2, "epoch": 7, "state": "ready", "last_exit": "", "restarts": {}, "name": "0", "cpus": ""}
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "state": "ready",
        "launcher": {"pid": 1},
        "core": core,
        "frontends": [{"pid": 3, "port": 80, "state": "ready"}],
        "url": "http://h:80",
        "reload": None,
        "batch_runner": {"pid": None, "state": "stopped"},
        "restarts": {"frontends": [], "batch_runner": 0},
        "cores": [core, {**core, "pid": 4, "epoch": 8, "name": "1", "cpus": "2-3"}],
    }


def test_an_equal_status_is_not_written_again(tmp_path):
    file = StatusFile(tmp_path / "status.json")
    file.write(STATUS)
    (tmp_path / "status.json").unlink()
    file.write(STATUS)
    assert list(tmp_path.iterdir()) == []


def test_stopped_keeps_what_was_and_names_no_process(tmp_path):
    file = StatusFile(tmp_path / "status.json")
    file.write(STATUS)
    file.write_stopped()
    status = json.loads((tmp_path / "status.json").read_text())
    assert status["state"] == status["core"]["state"] == status["frontends"][0]["state"] == "stopped"
    assert [(core["pid"], core["state"]) for core in status["cores"]] == [(None, "stopped")] * 2
    assert status["core"] == {**status["cores"][0], "epoch": 7}


def test_a_folder_that_is_gone_is_logged_and_harms_nobody(tmp_path, caplog):
    StatusFile(tmp_path / "absent" / "status.json").write(STATUS)
    assert "cannot write" in caplog.text
