"""What is wrong with a model folder is said in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.weights import load_decoder_weights
from ipc.errors import ConfigError
from tests.engine_core.model.decoder.families import save_model


@pytest.fixture
def folder(tmp_path):
    save_model("llama", tmp_path)
    return tmp_path


def load(folder):
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    return load_decoder_weights(folder, config, torch.float32, torch.device("cpu"))


def test_an_untied_head_is_read(folder):
    assert torch.equal(load(folder).head, load_file(folder / "model.safetensors")["lm_head.weight"])


def test_weights_in_several_files_are_found_by_the_index(folder):
    expected = load(folder).layers[1].down
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file_name, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file_name)
    weight_map = {name: file_name for file_name, part in parts.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(load(folder).layers[1].down, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, r"model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        ({"model.norm.weight": torch.ones(3)}, "shape"),
    ],
)
def test_a_missing_weight_or_another_shape_is_named(folder, change, message):
    tensors = {**load_file(folder / "model.safetensors"), **change}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=message):
        load(folder)


def test_a_damaged_file_is_an_error(folder):
    shutil.copy(folder / "config.json", folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"malformed .*model\.safetensors"):
        load(folder)
