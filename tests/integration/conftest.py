import pytest

from tests.servers import Server


@pytest.fixture(scope="module")
def fake_server(tmp_path_factory):
    """Two frontends and a core with the fake model, 2 ms a step; shared by a module."""
    server = Server(tmp_path_factory.mktemp("fake"), "fake", "--fake-step-ms", "2")
    yield server
    server.close()
