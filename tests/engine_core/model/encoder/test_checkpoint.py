"""Files that do not hold what the config says are refused, and heads are no obstacle."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine_core.model.encoder.checkpoint import load_weights
from engine_core.model.encoder.config import EncoderConfig
from ipc.errors import ConfigError
from tests.sentence_encoders import save_encoder


@pytest.fixture
def folder(tmp_path):
    return save_encoder(tmp_path)


def load(folder):
    config = EncoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    return load_weights(folder, config, torch.float32, torch.device("cpu"))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors")


def test_the_prefix_and_the_head_of_a_masked_language_model_are_left_out(folder):
    plain = load(folder)
    rewrite(
        folder,
        lambda tensors: {
            **{f"bert.{name}": tensor for name, tensor in tensors.items() if not name.startswith("pooler.")},
            "cls.predictions.bias": torch.ones(3),
            "bert.embeddings.position_ids": torch.arange(66),
        },
    )
    other = load(folder)
    assert torch.equal(plain.words, other.words)
    assert torch.equal(plain.layers[2].qkv.bias, other.layers[2].qkv.bias)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: {n: t for n, t in tensors.items() if "layer.1.output" not in n},
            r"layer\.1\.output.* missing",
        ),
        (lambda tensors: {**tensors, "adapter.weight": torch.ones(2)}, "no use for adapter.weight"),
        (lambda tensors: {**tensors, "embeddings.LayerNorm.bias": torch.ones(2)}, r"shape \[2\] instead of \[48\]"),
        (
            lambda tensors: {**tensors, "embeddings.LayerNorm.bias": torch.ones(48, dtype=torch.int32)},
            "LayerNorm.bias has the type I32",
        ),
    ],
)
def test_other_tensors_are_refused_by_name(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ConfigError, match=message):
        load(folder)
