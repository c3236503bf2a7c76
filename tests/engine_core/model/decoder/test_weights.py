"""What is wrong with a model folder is said in one line."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

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


def change(folder, **tensors):
    """Replace tensors, add some, and drop those that are None; double underscores are dots."""
    changes = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    changed = {**load_file(folder / "model.safetensors"), **changes}
    save_file({name: tensor for name, tensor in changed.items() if tensor is not None}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__layers__1__mlp__up_proj__weight": None}, r"model\.layers\.1\.mlp\.up_proj\.weight is missing"),
        ({"model__norm__weight": None, "lm_head__weight": None}, r"model\.norm\.weight, lm_head\.weight are missing"),
        (
            {"model__norm__weight": torch.ones(3), "lm_head__weight": torch.ones(2, 2)},
            r"model\.norm\.weight has the shape \[3\] instead of \[60\], lm_head\.weight has the shape \[2, 2\]",
        ),
        ({"model__norm__weight": torch.ones(60, dtype=torch.int8)}, r"model\.norm\.weight has the type I8"),
        (
            {"model__layers__0__self_attn__q_proj__bias": torch.ones(192)},
            r"no use for model\.layers\.0\..*q_proj\.bias",
        ),
        ({"model__layers__3__mlp__up_proj__weight": torch.ones(1)}, "no use for .*--model-impl transformers"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_named_in_one_line(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        load(folder)
    assert "\n" not in caught.value.message


def test_frequencies_in_older_files_are_ignored(folder):
    change(folder, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(16))
    assert len(list(load(folder).layers)) == 3


@pytest.fixture
def tied(tmp_path):
    """A model whose config says that the output layer is the embedding."""
    save_model("qwen3", tmp_path)
    return tmp_path


@pytest.mark.parametrize("change_tensors", ["both equal", "both differ", "head only", "embedding only"])
def test_of_tied_weights_those_are_taken_that_transformers_takes(tied, change_tensors):
    embedding = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    changes = {
        "both equal": {"lm_head__weight": embedding.clone()},
        "both differ": {"lm_head__weight": embedding + 1},
        "head only": {"lm_head__weight": embedding + 1, "model__embed_tokens__weight": None},
        "embedding only": {},
    }
    change(tied, **changes[change_tensors])
    model, weights = AutoModelForCausalLM.from_pretrained(tied, dtype=torch.float32), load(tied)
    assert torch.equal(weights.embedding, model.get_input_embeddings().weight)
    assert torch.equal(weights.head, model.get_output_embeddings().weight)
    assert (weights.head is weights.embedding) == (change_tensors != "both differ")


def test_tied_weights_of_which_neither_is_there_are_missing(tied):
    change(tied, model__embed_tokens__weight=None)
    with pytest.raises(ConfigError, match=r"model\.embed_tokens\.weight, lm_head\.weight are missing"):
        load(tied)


def test_a_damaged_file_is_an_error(folder):
    shutil.copy(folder / "config.json", folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"malformed .*model\.safetensors"):
        load(folder)


def test_a_file_that_ends_too_soon_is_an_error(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match=r"malformed .*model\.safetensors: .* bytes of data"):
        load(folder)
