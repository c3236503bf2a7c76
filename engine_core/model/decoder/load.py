"""Makes the network of a decoder: on the kernels for its device where they can be had, else in plain torch.

Invariant: what runs on kernels has been compared, at this start, with the torch network of the same weights in fp32.
What fails the comparison is not used; a warning says so. Next: `native_network.py`, `network.py`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from engine_core.model.attention import has_triton
from engine_core.model.decoder.config import DecoderConfig
from engine_core.model.decoder.native_network import NativeDecoderNetwork, kernels_fit
from engine_core.model.decoder.network import DecoderNetwork
from engine_core.model.decoder.rope import check_length
from engine_core.model.decoder.weights import DecoderWeights, load_decoder_weights
from engine_core.model.kernels.bindings import Format, load_library
from engine_core.model.kernels.build import KernelsUnavailableError, kernel_library
from engine_core.model.kv_tensors import allocate_kv_tensors
from engine_core.model.lora.adapter_weights import Adapter
from engine_core.model.lora.step_adapters import NO_ADAPTER, StepAdapters
from engine_core.model.network import CHECK_TOKENS, Network, chunk_logits
from ipc.errors import ConfigError

logger = logging.getLogger(__name__)

Quantization = Literal["none", "int8", "int8-dynamic", "int4"]

_FORMATS: dict[Quantization, Format] = {"int8": Format.INT8, "int8-dynamic": Format.DYNAMIC_INT8, "int4": Format.INT4}
_TOLERANCES: dict[Quantization, float] = {"none": 0.05, "int8": 0.15, "int8-dynamic": 0.4, "int4": 0.4}
"""Root mean square of the differences of logits, as a share of that of the logits."""
_NUM_CHECKED = CHECK_TOKENS + 1
"""Tokens: some in a prefill, one in a decode step."""
_MAX_CHECKED_ADAPTERS = _NUM_CHECKED - 1
_CHECK_BLOCK_SIZE = 16
_CHECK_VOCAB_SIZE = 64
"""Logits that are compared."""


def load_decoder(
    config: DecoderConfig,
    model_dir: Path,
    dtype: torch.dtype,
    device: torch.device,
    max_model_len: int,
    *,
    quantization: Quantization = "none",
    use_kernels: bool = True,
    adapters: Sequence[Adapter] = (),
) -> Network:
    """Load the weights and make the fastest network that passes its check.

    Raises:
        ConfigError: the weights cannot be read, the model has no positions for `max_model_len` tokens, or there are
            no kernels for the quantization that was asked for.
    """
    reason = _why_no_kernels(config, device, use_kernels)
    if quantization != "none" and reason:
        raise ConfigError(f"--quantization {quantization} needs the CPU kernels: {reason}")
    for rope in config.ropes:
        check_length(rope, max_model_len)
    max_model_len = max(max_model_len, _NUM_CHECKED)  # the check needs positions for its tokens
    weights = load_decoder_weights(model_dir, config, dtype, device)
    if has_triton(device) and adapters:
        logger.warning("computing in plain torch: the kernels for GPUs know no LoRA adapters")
        return DecoderNetwork(config, weights, max_model_len, adapters)
    if reason and not has_triton(device):
        logger.info("computing in plain torch: %s", reason)
        return DecoderNetwork(config, weights, max_model_len, adapters)
    wide_adapters = [adapter.in_float32() for adapter in adapters[:_MAX_CHECKED_ADAPTERS]]
    reference = DecoderNetwork(config, weights.float32_sample(_CHECK_VOCAB_SIZE), _NUM_CHECKED, wide_adapters)
    num_adapters = len(wide_adapters)
    expected = _check_logits(config, reference, torch.float32, device, num_adapters, in_plain_torch=True)
    choices: tuple[Quantization, ...] = (quantization, "none")
    for choice in dict.fromkeys(choices):
        network = _on_kernels(config, weights, dtype, max_model_len, choice, device, adapters)
        logits = _check_logits(config, network, dtype, device, num_adapters)
        difference = float((logits - expected).norm() / expected.norm())
        if difference <= _TOLERANCES[choice]:
            return network
        logger.warning("kernels (quantization %s) are off by %.3f and are not used", choice, difference)
    return DecoderNetwork(config, weights, max_model_len, adapters)


def _why_no_kernels(config: DecoderConfig, device: torch.device, use_kernels: bool) -> str:
    """Empty where the kernels can be used."""
    if device.type != "cpu":
        return "they are for CPUs"
    if not use_kernels:
        return "they are turned off"
    if not kernels_fit(config):
        return "the model has sizes that they do not have"
    try:
        kernel_library()
    except KernelsUnavailableError as error:
        return str(error)
    return ""


def _on_kernels(
    config: DecoderConfig,
    weights: DecoderWeights,
    dtype: torch.dtype,
    max_model_len: int,
    quantization: Quantization,
    device: torch.device,
    adapters: Sequence[Adapter],
) -> Network:
    if device.type == "cuda":
        from engine_core.model.decoder.triton_network import TritonDecoderNetwork  # Triton is there only beside CUDA

        return TritonDecoderNetwork(config, weights, max_model_len)
    plain = Format.FLOAT32 if dtype == torch.float32 else Format.BF16
    return NativeDecoderNetwork(
        config,
        weights,
        load_library(kernel_library()),
        format=_FORMATS.get(quantization, plain),
        head_format=Format.INT8 if quantization in ("int8", "int4") else plain,
        max_model_len=max_model_len,
        adapters=adapters,
    )


@torch.inference_mode()
def _check_logits(
    config: DecoderConfig,
    network: Network,
    dtype: torch.dtype,
    device: torch.device,
    num_adapters: int,
    *,
    in_plain_torch: bool = False,
) -> torch.Tensor:
    """Logits of a few tokens, each but the first with another adapter as far as there are any: all but the last token
    in one step, the last one as a decode step."""
    kv_tensors = allocate_kv_tensors(config, num_blocks=1, block_size=_CHECK_BLOCK_SIZE, dtype=dtype, device=device)
    token_ids, block_ids = np.arange(_NUM_CHECKED, dtype=np.int64), np.zeros(1, dtype=np.int32)
    logits = []
    for start, end in ((0, CHECK_TOKENS), (CHECK_TOKENS, _NUM_CHECKED)):
        indices = np.arange(start, end, dtype=np.int32) - 1
        indices[indices >= num_adapters] = NO_ADAPTER
        adapters = StepAdapters(indices) if (indices != NO_ADAPTER).any() else None
        at = token_ids[start:end], start, block_ids
        chunk = chunk_logits(network, *at, kv_tensors, adapters, in_plain_torch=in_plain_torch)
        logits.append(chunk[:, :_CHECK_VOCAB_SIZE].float().clone())
    return torch.cat(logits)
