"""What a server with cores on other hosts knows of them before it has heard one, and after it has lost one."""

import pytest

from fast_inference.remote_fleet import _status_of, remote_cores
from ipc.curve import CurveDir
from ipc.endpoint_config import EndpointConfig
from ipc.messages import CoreState
from ipc.placement import CoreView
from tests.factories import make_welcome


@pytest.mark.parametrize("host", ["NodeA", "10.0.0.2", "[fe80::1]"])
def test_the_key_of_a_host_is_found_by_its_name_as_it_is_written(tmp_path, host):
    folder, of_host = CurveDir(tmp_path / "keys"), CurveDir(tmp_path / "host")
    folder.make("client")
    key = of_host.make_server()
    servers = folder.path / "servers"
    servers.mkdir()
    (servers / f"{host.strip('[]')}.key").write_bytes((of_host.path / "server.key").read_bytes())
    endpoint = f"tcp://{host}:5555"
    cores = remote_cores(EndpointConfig(connect=(endpoint,), curve_dir=folder.path))
    assert cores[f"{host}:5555"].server_key == key


def test_a_core_that_was_there_is_dead_and_does_not_start():
    welcome = make_welcome(epoch=7)
    assert _status_of("a", None).state == _status_of("a", CoreView("a")).state == "starting"
    assert (
        _status_of("a", CoreView("a", welcome=welcome)).state,
        _status_of("a", CoreView("a", welcome=welcome)).epoch,
    ) == ("dead", 7)
    assert _status_of("a", CoreView("a", state=CoreState.READY, welcome=welcome)).state == "ready"
