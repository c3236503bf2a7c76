"""`fast-inference serve` with what must not be served: one line that says why, status 1, and nothing of it is run."""

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

ROOT = Path(__file__).parents[2]


@pytest.fixture
def serve(tmp_path):
    """Serves a model, which must fail; returns its only error line."""

    def run(model: Path | str, *flags: str, **environment: str) -> str:
        command = [sys.executable, "-m", "fast_inference", "serve", str(model), "--port", "0"]
        done = subprocess.run(
            [*command, "--run-dir", str(tmp_path / "run"), *flags],
            cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, ""), done.stderr
        told = [line for line in done.stderr.splitlines() if not line.startswith(STAGES)]
        assert len(told) == 1, done.stderr
        return told[0]

    yield run
    assert not (tmp_path / "canary").exists(), "code of the model was run"


STAGES = ("looking for the model", "starting the core", "converting", "downloading")


@pytest.fixture
def folder(tmp_path):
    """A model that could be served, beside a module that leaves a canary when it is imported."""
    sizes = {"vocab_size": 60, "n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained(tmp_path / "model")
    for name in ("own.py", "configuration_own.py", "modeling_own.py"):
        canary = f"from pathlib import Path\nPath({str(tmp_path / 'canary')!r}).touch()\n"
        (tmp_path / "model" / name).write_text(canary)
    return tmp_path / "model"


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_truncated_weights(serve, folder):
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 100)
    assert "model.safetensors" in serve(folder)


def test_code_in_the_folder(serve, folder):
    auto_map = {"AutoConfig": "configuration_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    change(folder, model_type="own", architectures=["Own"], auto_map=auto_map)
    assert serve(folder) == (
        "error: own models are code of their own (auto_map), and code of a model folder never runs"
    )


def test_another_kind_of_model(serve, folder):
    change(folder, model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)
    assert serve(folder).startswith("error: t5 models cannot be run here: an encoder-decoder ")


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<IQQ", 3, 2**60, 1),
        struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q1sIQIQ", 1, b"t", 1, 2**40, 0, 0),
    ],
    ids=["tensors", "size"],
)
def test_a_lying_gguf_header(serve, tmp_path, content):
    (tmp_path / "lie.gguf").write_bytes(b"GGUF" + content)
    told = serve(tmp_path / "lie.gguf", XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert told.startswith(f"error: cannot convert {tmp_path / 'lie.gguf'}: malformed lie.gguf: ")


def test_a_model_of_the_hub_that_is_not_here_and_must_not_be_got(serve, tmp_path):
    told = serve("org/name", HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
    assert told == (
        "error: cannot get the model 'org/name': it is neither a folder nor in the hub cache, and the hub must not be "
        "asked (HF_HUB_OFFLINE)"
    )


def test_a_model_of_the_hub_where_nobody_answers(serve, tmp_path):
    told = serve("org/name", HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="0", HF_ENDPOINT="http://127.0.0.1:9")
    assert "neither a folder nor in the hub cache, and the hub cannot be reached (" in told
