"""Makes the runner of an encoder, and tries it once before it serves.

Called by `engine_core/model/loader.py`, which has planned the memory. Next: `runner.py`.
"""

from pathlib import Path

import torch

from engine_core.model.encoder.checkpoint import load_weights
from engine_core.model.encoder.config import EncoderConfig
from engine_core.model.encoder.network import EncoderNetwork
from engine_core.model.encoder.runner import EncoderRunner
from engine_core.model.pooling import PoolingConfig
from engine_core.outputs import ModelInfo, NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.config import ModelConfig
from ipc.errors import ConfigError
from ipc.messages import Task
from ipc.sampling_params import SamplingParams

_CHECK_TOKENS = 4


def load_encoder_runner(
    model_dir: Path,
    config: EncoderConfig,
    info: ModelInfo,
    pooling: PoolingConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> EncoderRunner:
    """Read the weights of a model folder and embed a short text, which also warms up.

    Raises:
        ConfigError: the weights do not fit the config, or the vector is not finite.
    """
    network = EncoderNetwork(config, load_weights(model_dir, config, dtype, device))
    runner = EncoderRunner(network, info, pooling, device)
    if runner.execute(_check_step(min(_CHECK_TOKENS, info.max_model_len))).failures:
        raise ConfigError(f"cannot run {info.model_id}: its vectors are 0 or not finite")
    return runner


def refuse_settings(model: ModelConfig) -> None:
    """Raise `ConfigError` for settings that an encoder would ignore."""
    if model.quantization != "none":
        raise ConfigError(f"--quantization {model.quantization}: sentence encoders are not quantized")
    if model.model_impl == "transformers":
        raise ConfigError("--model-impl transformers: sentence encoders have a native implementation only")


def _check_step(num_tokens: int) -> SchedulerOutput:
    key, params = RequestKey(0), SamplingParams(max_tokens=1)
    text = NewRequestData(key, (0,) * num_tokens, num_tokens, params, Task.EMBED, ())
    return SchedulerOutput(0, (text,), (ScheduledRequest(key, 0, num_tokens, (), is_last_chunk=True),))
