import gc

import pytest

from tests.servers import Server


@pytest.fixture
def frees_models():
    """For tests that load models into this process: half a gigabyte each or more, in cycles of references."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def fake_server(tmp_path_factory):
    """Two frontends and a core with the fake model, 2 ms a step; shared by all tests that ask for it.

    A test leaves it as it found it: nothing runs, no connection is open, and what it killed has been replaced.
    """
    server = Server(tmp_path_factory.mktemp("fake"), "fake", "--fake-step-ms", "2")
    yield server
    server.close()
