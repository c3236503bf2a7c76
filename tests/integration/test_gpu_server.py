"""A whole server with SmolLM2 on a GPU: many streams at once say what one alone says."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.servers import Server

pytestmark = [pytest.mark.gpu, pytest.mark.model, pytest.mark.timeout(300)]

MODEL = "smollm2-135m-instruct"
FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module", params=["graphs", "eager"])
def server(request, smollm2_dir, tmp_path_factory):
    eager = ["--enforce-eager"] if request.param == "eager" else []
    folder = tmp_path_factory.mktemp(request.param)
    server = Server(folder, MODEL, "--device", "cuda", "--dtype", "float32", "--num-blocks", "512", *eager)
    yield server
    server.close()


def test_many_streams_at_once_know_the_capital_of_france(server):
    def ask(number):
        with server.openai() as client:
            request = {"messages": FRANCE, "temperature": 0, "max_tokens": 20, "stream": True}
            stream = client.chat.completions.create(model=MODEL, **request)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(40)))
    assert set(answers) == {"The capital of France is Paris."}


def test_a_seed_says_the_same_beside_others(server):
    def ask(seed):
        with server.openai() as client:
            request = {"prompt": "Once upon a time", "temperature": 1.0, "top_p": 0.9, "max_tokens": 30, "seed": seed}
            return client.completions.create(model=MODEL, **request).choices[0].text

    alone = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, [0, 1, 2, 3] * 4))
    assert together == alone * 4
    assert len(set(alone)) == 4
