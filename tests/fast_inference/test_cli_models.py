"""What `fast-inference models` and `fast-inference pull` say of models of all kinds and places."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as TensorType

from fast_inference.cli_models import list_models, models_as_text
from ipc.errors import ConfigError
from tests import gguf_files
from tests.safetensors_files import write_safetensors

ROOT = Path(__file__).parents[2]
LLAMA = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 50,
    "max_position_embeddings": 512,
}
GPT2 = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}


def call(*argv, **environment):
    return subprocess.run(
        [sys.executable, "-m", "fast_inference", *map(str, argv)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip


def write_model(folder, config, num_items=1000):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / "model.safetensors", a=("F32", [num_items]))


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """Empty caches: that of models, and that of the hub."""
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HUB_CACHE": str(tmp_path / "hub")}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "cache" / "fast-inference" / "models", tmp_path / "hub"


def test_models_of_both_caches_and_of_folders_are_listed(caches, tmp_path):
    models, hub = caches
    write_model(models / "smollm2-135m-instruct", LLAMA)
    write_model(models / "own-0123456789abcdef", LLAMA)
    write_model(models / ".pull-x", LLAMA)
    write_model(hub / "models--org--some-name" / "snapshots" / "abc", GPT2)
    (hub / "models--org--some-name" / "refs").mkdir()
    (hub / "models--org--some-name" / "refs" / "main").write_text("abc")
    (hub / "models--org--nothing-yet").mkdir()
    (hub / "datasets--org--data").mkdir()
    write_model(tmp_path / "folders" / "t5", T5)
    rows = [(row.name, row.source, row.architecture, row.runs_on) for row in list_models([tmp_path / "folders"])]
    assert rows == [
        (str(models / "own-0123456789abcdef"), "model cache", "LlamaForCausalLM", "native"),
        ("smollm2-135m-instruct", "model cache", "LlamaForCausalLM", "native"),
        ("org/some-name", "hub cache", "GPT2LMHeadModel", "transformers"),
        (str(tmp_path / "folders" / "t5"), "folder", "T5ForConditionalGeneration", None),
    ]


def test_a_folder_may_be_the_model_itself(caches, tmp_path):
    write_model(tmp_path / "gpt2", GPT2)
    (row,) = list_models([tmp_path / "gpt2"])
    assert row.size_bytes == (tmp_path / "gpt2" / "model.safetensors").stat().st_size


def test_a_damaged_model_is_listed_with_what_is_wrong(caches, tmp_path):
    write_model(tmp_path / "a" / "damaged", GPT2)
    os.truncate(tmp_path / "a" / "damaged" / "model.safetensors", 100)
    write_model(tmp_path / "a" / "no-json", GPT2)
    (tmp_path / "a" / "no-json" / "config.json").write_text("{")
    damaged, no_json = list_models([tmp_path / "a"])
    assert (damaged.runs_on, no_json.runs_on) == (None, None)
    assert "malformed" in damaged.refusal
    assert "cannot read" in no_json.refusal


def test_no_folder_is_an_error(caches, tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        list_models([tmp_path / "nowhere"])


def test_the_table_names_what_runs_each_and_what_can_be_pulled(caches, tmp_path):
    write_model(tmp_path / "a" / "gpt2", GPT2)
    write_model(tmp_path / "a" / "t5", T5)
    lines = models_as_text(list_models([tmp_path / "a"])).splitlines()
    assert lines[0].split() == ["MODEL", "SIZE", "ARCHITECTURE", "RUNS", "ON"]
    assert lines[1].endswith("GPT2LMHeadModel             transformers")
    assert "nothing: t5 models cannot be run here: an encoder-decoder" in lines[2]
    assert "smollm2-135m-instruct" in lines[3]


def test_no_models_are_no_error(caches):
    done = call("models", "--json")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")
    assert call("models").stdout.startswith("no models are here\n")


def test_torch_is_not_imported(caches, tmp_path):
    write_model(tmp_path / "a" / "gpt2", GPT2)
    code = (
        "import sys; from fast_inference.cli import main\n"
        f"main(['models', {str(tmp_path / 'a')!r}]); print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_folder_is_pulled_as_it_is(caches, tmp_path):
    write_model(tmp_path / "gpt2", GPT2)
    done = call("pull", tmp_path / "gpt2")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'gpt2'}\n")


def test_the_fake_model_cannot_be_pulled(caches):
    done = call("pull", "fake")
    assert (done.returncode, done.stderr) == (1, "error: the fake model has no files: there is nothing to pull\n")


def test_rope_goes_with_a_checkpoint_only(caches, tmp_path):
    write_model(tmp_path / "gpt2", GPT2)
    done = call("pull", tmp_path / "gpt2", "--rope", "tokens")
    assert done.returncode == 1
    assert "--rope tokens is for MinimalLLM checkpoints" in done.stderr


def test_a_gguf_file_is_pulled_into_the_cache_once_and_listed(caches, tmp_path):
    models, _ = caches
    gguf_files.write_gguf(tmp_path / "tiny.gguf", TensorType.Q8_0)
    done = call("pull", tmp_path / "tiny.gguf")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.rstrip("\n"))
    assert folder.parent == models
    assert call("pull", tmp_path / "tiny.gguf").stderr == ""
    (row,) = list_models()
    assert (row.name, row.architecture, row.runs_on) == (str(folder), "LlamaForCausalLM", "native")
    shutil.rmtree(folder)
