"""Which network a model gets."""

import json

import pytest
import torch

from engine_core.model.decoder import load
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.native_network import NativeDecoderNetwork
from engine_core.model.decoder.network import DecoderNetwork
from engine_core.model.kernels.bindings import Format
from engine_core.model.kernels.build import kernel_library
from engine_core.model.kv_tensors import allocate_kv_tensors
from ipc.errors import ConfigError
from tests.engine_core.model.decoder.families import save_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    save_model("llama", folder)
    return folder


def load_network(folder, **choices):
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    return load.load_decoder(config, folder, torch.bfloat16, torch.device("cpu"), 128, **choices)


@pytest.fixture
def no_compiler(tmp_path, monkeypatch):
    kernel_library.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    yield
    kernel_library.cache_clear()


def test_on_a_cpu_it_runs_on_the_kernels(folder):
    assert isinstance(load_network(folder), NativeDecoderNetwork)


def test_they_can_be_turned_off(folder):
    assert isinstance(load_network(folder, use_kernels=False), DecoderNetwork)


def test_without_a_compiler_plain_torch_does_the_work(folder, no_compiler):
    assert isinstance(load_network(folder), DecoderNetwork)


def test_a_quantization_without_kernels_is_an_error_that_says_why(folder, no_compiler):
    with pytest.raises(ConfigError, match="--quantization int8 needs the CPU kernels: no C\\+\\+ compiler"):
        load_network(folder, quantization="int8")


def test_kernels_that_are_off_are_not_used(folder, monkeypatch, caplog):
    monkeypatch.setattr(load, "_TOLERANCES", {"none": 0.05, "int8": 0.0})
    network = load_network(folder, quantization="int8")
    assert isinstance(network, NativeDecoderNetwork)
    assert network._head.format is Format.BF16
    assert "quantization int8" in caplog.text


def test_requests_that_are_too_long_are_refused_before_the_weights_are_read(tmp_path):
    save_model("phi3-longrope", tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    config = DecoderConfig.try_from(json.loads((tmp_path / "config.json").read_text()))
    with pytest.raises(ConfigError, match="--max-model-len 256"):
        load.load_decoder(config, tmp_path, torch.bfloat16, torch.device("cpu"), 257)


@pytest.mark.parametrize("use_kernels", [True, False])
def test_the_shortest_requests_leave_room_for_the_check(folder, use_kernels):
    config = DecoderConfig.try_from(json.loads((folder / "config.json").read_text()))
    network = load.load_decoder(config, folder, torch.float32, torch.device("cpu"), 1, use_kernels=use_kernels)
    kv_tensors = allocate_kv_tensors(
        config, num_blocks=2, block_size=16, dtype=torch.float32, device=torch.device("cpu")
    )
    network.check(kv_tensors)
    assert isinstance(network, NativeDecoderNetwork) == use_kernels
