"""A server for the checks that ask one."""

import pytest

from tests.servers import Server


@pytest.fixture(scope="module")
def fake_server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("fake"), "fake", "--frontends", "1")
    yield server
    server.close()
