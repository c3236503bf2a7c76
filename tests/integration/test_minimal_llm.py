"""MinimalLLM end to end: trained by our script, served from the `.pt` file, asked by OpenAI's client.

Every generation, with the command lines of the first README, and with `--rope` where the file cannot say how it tells
positions. What the models learn is one conversation, so that the answer shows whether the server computes the same.
"""

import sys
import zipfile
from pathlib import Path

import openai
import pytest

from tests.minimal_llm import cache_with_kernels, training_script
from tests.servers import ROOT, StartingServer

pytestmark = pytest.mark.timeout(300)

CHAT = (
    "<|system|>\nYou know capitals.\n<|user|>\nWhat is the capital of France?\n<|assistant|>\n"
    "The capital of France is Paris, which lies at the river Seine.\n"
)
TEXT = CHAT * 30
MESSAGES = [
    {"role": "system", "content": "You know capitals."},
    {"role": "user", "content": "What is the capital of France?"},
]
ANSWER = "The capital of France is Paris, which lies at the river Seine.\n"
TRAINING = ["--d-model", "64", "--n-heads", "4", "--n-layers", "2", "--d-ff", "96", "--max-seq-len", "96"]
TRAINING += ["--vocab-size", "340", "--batch-size", "4", "--learning-rate", "0.005", "--threads", "1"]
STEPS = {"A": 160, "A-tokens": 90, "B": 90, "C": 90}
"""Without positions it takes longer."""
SERVER_FLAGS = ["--frontends", "1", "--threads", "1", "--num-blocks", "32", "--drain-timeout", "1"]


class FirstCommandLine(StartingServer):
    """`python -m fast_inference.cli_openai`, in a folder with `models/final_model1.pt`."""

    def __init__(self, folder: Path, *flags: str, **environment: str) -> None:
        self.run_dir, self.stderr_file = folder / "run", folder / "stderr"
        command = [sys.executable, "-m", "fast_inference.cli_openai", *flags, "--host", "127.0.0.1", "--port", "0"]
        own = {"PYTHONPATH": str(ROOT), "FAST_INFERENCE_RUN_DIR": str(self.run_dir), "FAST_INFERENCE_THREADS": "1"}
        self._start(command, folder, {**environment, **own})


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return cache_with_kernels(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """The file of each generation; tokenizers lie beside all, and A's in another folder too."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    paths = {}
    with training_script() as script:
        for generation, steps in STEPS.items():
            paths[generation] = folder / generation / "models" / "final_model1.pt"
            argv = [str(folder / "text.txt"), "--output", str(paths[generation]), "--generation", generation]
            assert script.main([*argv, "--steps", str(steps), *TRAINING]) == 0
    (folder / "tokenizer").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (paths["A"].parent / name).rename(folder / "tokenizer" / name)
    return paths


@pytest.fixture(scope="module")
def servers(checkpoints, cache, tmp_path_factory):
    """A server for each generation, all started at once."""
    folders = {generation: path.parents[1] for generation, path in checkpoints.items()}
    path_a, path_c = "models/final_model1.pt", {"MODEL_PATH": "models/final_model1.pt", "MODEL_NAME": "my-custom-model"}
    path_c["TOKENIZER_PATH"] = str(folders["C"] / "models")
    started = {
        "A": FirstCommandLine(
            folders["A"], "--model-path", path_a, "--tokenizer-path", str(folders["A"].parent / "tokenizer"), **cache
        ),
        "C": FirstCommandLine(folders["C"], **path_c, **cache),
    }
    for generation, rope in (("A-tokens", "tokens"), ("B", "interleaved")):
        folder, path = tmp_path_factory.mktemp(generation), str(checkpoints[generation])
        started[generation] = StartingServer(folder, path, "--rope", rope, *SERVER_FLAGS, **cache)
    try:
        for server in started.values():
            server.url = server.wait_ready()[1]
        yield started
    finally:
        for server in started.values():
            server.close()


@pytest.fixture
def client_of(servers):
    clients = []

    def connect(generation):
        url = f"{servers[generation].url}/v1"
        clients.append(openai.OpenAI(base_url=url, api_key="dummy", max_retries=0, timeout=60))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.mark.parametrize("generation", STEPS)
def test_what_was_learnt_is_answered_and_ends_where_the_next_section_begins(client_of, generation):
    client = client_of(generation)
    chat = {"model": "fast-inference-model", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
    choice = client.chat.completions.create(**chat).choices[0]
    assert (choice.message.content, choice.finish_reason) == (ANSWER, "stop")
    with client.chat.completions.create(**chat, stream=True) as stream:
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == ANSWER


def test_the_name_of_the_environment_is_served(client_of):
    assert "my-custom-model" in [model.id for model in client_of("C").models.list()]


def test_a_request_that_ignores_ends_goes_on_to_the_next_section(client_of):
    extra = {"ignore_eos": True, "skip_special_tokens": False}
    chat = {"model": "fast-inference-model", "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
    choice = client_of("B").chat.completions.create(**chat, extra_body=extra).choices[0]
    assert choice.message.content.startswith(f"{ANSWER}<|system|>\n")
    assert choice.finish_reason == "length"


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal(folder, *argv, **environment):
    """The one line that a start says which fails."""
    server = FirstCommandLine(folder, *argv, **environment)
    server.process.communicate(timeout=60)
    assert server.process.returncode == 1
    (line,) = server.errors
    return line


def test_a_malicious_pickle_is_refused_in_one_line_and_not_run(tmp_path, cache):
    canary = tmp_path / "canary"
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        command = f"touch {canary}".encode()
        archive.writestr("evil/data.pkl", b"\x80\x02cposix\nsystem\nU" + bytes([len(command)]) + command + b"\x85R.")
    line = refusal(tmp_path, "--model-path", "evil.pt", **cache)
    assert "cannot convert" in line
    assert "refused posix.system" in line
    assert not canary.exists()
