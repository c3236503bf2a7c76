import pytest

from fast_inference import LLM
from tests.servers import Server


@pytest.fixture(scope="package")
def llm():
    """The fake model in this process."""
    with LLM("fake", max_num_seqs=8) as llm:
        yield llm


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    """A real server with the fake model."""
    server = Server(tmp_path_factory.mktemp("server"), "fake", "--frontends", "1")
    yield server
    server.close()


@pytest.fixture(scope="package")
def attached(server):
    with LLM(attach=server.run_dir) as llm:
        yield llm
