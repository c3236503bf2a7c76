"""Model folders that bring code: it never runs, whatever their configs say of it."""

import contextlib
import json
import shutil

import pytest

from engine_core.tokenizer_export import export_tokenizer
from ipc.errors import ConfigError

AUTO_MAP = {
    "AutoConfig": "own.OwnConfig",
    "AutoModelForCausalLM": "own.OwnModel",
    "AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"],
}


@pytest.fixture
def folder(llama_dir, tmp_path, monkeypatch):
    """The tiny model beside a module that leaves a canary when it is imported."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(llama_dir, tmp_path / "model")
    for name in ("own.py", "configuration_own.py", "modeling_own.py"):
        (folder / name).write_text(f"from pathlib import Path\nPath({str(tmp_path / 'canary')!r}).touch()\n")
    return folder


@pytest.fixture
def canary(tmp_path):
    yield
    assert not (tmp_path / "canary").exists(), "code of the model folder was run"


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("model_type", ["llama", "own"])
@pytest.mark.parametrize("model_impl", ["auto", "native", "transformers"])
def test_code_that_the_config_names_never_runs(folder, canary, load_tiny, model_type, model_impl):
    change(folder / "config.json", auto_map=AUTO_MAP, model_type=model_type, architectures=["OwnModel"])
    with contextlib.suppress(ConfigError):
        load_tiny(folder, model_impl=model_impl)


def test_code_that_a_tokenizer_config_names_never_runs(folder, canary):
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text("{}")
    tokenizer_config = {"auto_map": AUTO_MAP, "tokenizer_class": "OwnTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    change(folder / "config.json", auto_map=AUTO_MAP)
    with contextlib.suppress(ConfigError):
        export_tokenizer(folder, None)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt"])
def test_pickles_beside_the_weights_are_not_read(folder, canary, tmp_path, load_tiny, name):
    (folder / name).write_bytes(f"cposix\nsystem\n(S'touch {tmp_path / 'canary'}'\ntR.".encode())
    load_tiny(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="safetensors"):
        load_tiny(folder)
