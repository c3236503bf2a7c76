"""How busy two cores are, asked of themselves and of a frontend."""

from contextlib import contextmanager

import pytest

from fast_inference.status_report import probes
from fast_inference.status_report.probes import CoreProbe
from ipc.errors import EngineUnavailableError
from tests.factories import make_params
from tests.processes import core_processes


@pytest.fixture
def cores(tmp_path):
    with core_processes(tmp_path, fake_step_ms=2) as cores:
        yield cores


@contextmanager
def busy(core, num_requests):
    client = core.connect()
    requests = [client.submit([number + 1], make_params(max_tokens=1900)) for number in range(num_requests)]
    client.wait(1)
    try:
        yield
    finally:
        for request in requests:
            client.abort(request.request_id)


def test_each_core_is_told_and_their_sum(cores):
    probe = CoreProbe(cores[0].run_dir, "name")
    with busy(cores[0], 2), busy(cores[1], 1):
        look = probe.look()
    assert (look.model.name, look.model.device, look.model.kv_tokens) == ("name", "none", 2 * 64 * 32)
    assert [(core.name, core.state, core.load.num_running) for core in look.cores] == [
        ("0", "ready", 2),
        ("1", "ready", 1),
    ]
    assert look.load.num_running == 3
    assert all(core.load.tokens_per_second > 10 for core in look.cores)
    assert look.load.tokens_per_second == pytest.approx(sum(core.load.tokens_per_second for core in look.cores))


def test_the_model_is_called_as_the_cores_call_it_where_the_server_has_no_name_for_it(cores):
    assert CoreProbe(cores[0].run_dir, "").look().model.name == "fake"


def test_a_core_that_does_not_answer_keeps_no_other_from_being_shown(cores, monkeypatch):
    monkeypatch.setattr(probes, "_CORE_TIMEOUT_S", 0.7)
    cores[0].connect()
    cores[1].kill()
    probe = CoreProbe(cores[0].run_dir, "")
    look = probe.look()
    assert [(core.name, core.state) for core in look.cores] == [("0", "ready"), ("1", "no answer")]
    assert look.cores[1].load is None
    assert look.load == look.cores[0].load
    cores[0].kill()
    with pytest.raises(EngineUnavailableError):
        probe.look()
