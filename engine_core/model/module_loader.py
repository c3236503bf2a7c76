"""Builds a `TorchModelRunner` around a module that its user has made in this process.

Called through `core_server.CoreServer` by whoever embeds a core. A module goes one of three ways: over our paged cache
by its own protocol (`paged_module.py`), as a model of transformers with our attention in it, or by computing each
request anew in every step (`recompute_network.py`), which is slow and says so once. What would be computed wrongly is
found by running a few tokens, and is a `ConfigError`. The module stays on its device, in its precision, and is put
into evaluation mode. Next: `loader.py`, which does the same for files.
"""

import logging
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from engine_core.cpus import available_cpus
from engine_core.device import available_bytes
from engine_core.memory_plan import MemoryPlan, ModelShape, plan_memory
from engine_core.model.attention import UnsupportedAttentionError
from engine_core.model.kv_tensors import CacheShape, KVTensors, allocate_kv_tensors
from engine_core.model.loader import eos_token_ids_of, error_line, token_picker
from engine_core.model.model_runner import TorchModelRunner
from engine_core.model.network import Network
from engine_core.model.paged_attention_config import PagedAttentionConfig
from engine_core.model.paged_module import PagedModuleNetwork
from engine_core.model.pooling import PoolingConfig
from engine_core.model.recompute_network import RecomputeNetwork, TokenCacheShape
from engine_core.model.transformers_network import TransformersNetwork
from engine_core.outputs import ModelInfo
from engine_core.tokenizer_facts import check_vocabulary
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError

log = logging.getLogger(__name__)

_LENGTH_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
"""Of a module's `config`, or of the module itself."""
_TOKEN_ID_BYTES = 4
_FAILURES = (UnsupportedAttentionError, RuntimeError, TypeError, ValueError, AttributeError, LookupError)
"""With which a module that is not what it should be may answer."""


@dataclass(frozen=True, slots=True)
class ModuleSource:
    """A module and what belongs to it."""

    module: torch.nn.Module
    tokenizer_dir: Path
    """Has a `tokenizer.json`."""
    eos_token_ids: tuple[int, ...]
    """Used where the module does not name its own."""


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The settings that a module is loaded with."""

    model: ModelConfig
    cache: CacheConfig
    scheduler: SchedulerConfig


@dataclass(frozen=True, slots=True)
class _LoadedModule:
    """A network that has passed its check, with its cache."""

    network: Network
    kv_tensors: KVTensors
    plan: MemoryPlan


def load_module_runner(
    source: ModuleSource,
    model: ModelConfig,
    cache: CacheConfig,
    scheduler: SchedulerConfig,
    report: Callable[[str], None],
) -> TorchModelRunner:
    """Make a module ready to run steps.

    Args:
        source: the module; its forward is one of those that this file's docstring names.
        model: its longest request, pooling and threads.
        cache: size of the KV cache.
        scheduler: limits of a step, for the memory plan.
        report: told each stage, for people.

    Raises:
        ConfigError: the module cannot be run, or not with these settings.
    """
    report("checking the module")
    torch.set_num_threads(model.threads or available_cpus())
    module = source.module.eval()
    with torch.inference_mode():
        loaded = _load(module, _Sizes(model, cache, scheduler))
    network, kv_tensors, plan = loaded.network, loaded.kv_tensors, loaded.plan
    log.info("%s: %s", type(module).__name__, plan.describe())
    for note in plan.notes:
        log.warning("%s", note)
    check_vocabulary(source.tokenizer_dir, network.vocab_size)
    device = kv_tensors.device
    pooling = PoolingConfig("mean" if model.pooling == "auto" else model.pooling)
    info = ModelInfo(
        model_id=type(module).__name__,
        fingerprint=uuid.uuid4().hex,  # nobody else has these weights, so that no other core goes on with its requests
        tokenizer_dir=str(source.tokenizer_dir.absolute()),
        vocab_size=network.vocab_size,
        eos_token_ids=_eos_token_ids(module) or source.eos_token_ids,
        max_model_len=plan.max_model_len,
        num_blocks=plan.num_blocks,
        embedding_size=network.hidden_size,
        dtype=str(_dtype_of(module)).removeprefix("torch."),
        device=device.type,
        pooling=pooling.kind,
    )
    picker = token_picker(device, use_kernels=model.cpu_kernels)
    return TorchModelRunner(network, kv_tensors, info, pooling, picker)


def _load(module: torch.nn.Module, sizes: _Sizes) -> _LoadedModule:
    """The first way that the module can go."""
    if hasattr(module, "paged_attention_config"):
        return _load_paged(module, sizes)
    if _is_of_transformers(module):
        config: Any = module.config
        own_attention = config._attn_implementation
        try:
            return _load_transformers(module, sizes)
        except ConfigError as error:
            log.warning("%s without the paged cache: %s", type(module).__name__, error.message)
            module.set_attn_implementation(own_attention)  # type: ignore[operator]
    return _load_recomputing(module, sizes)


def _load_paged(module: torch.nn.Module, sizes: _Sizes) -> _LoadedModule:
    config: Any = module.paged_attention_config()  # type: ignore[operator]
    if not isinstance(config, PagedAttentionConfig):
        raise ConfigError(f"paged_attention_config() must return a PagedAttentionConfig, not {type(config).__name__}")
    shape = ModelShape(
        num_layers=config.num_layers,
        num_heads=config.num_kv_heads,
        num_kv_heads=config.num_kv_heads,
        head_dim=config.head_dim,
        hidden_size=config.hidden_size,
        intermediate_size=4 * config.hidden_size,
        vocab_size=config.vocab_size,
        max_model_len=config.max_positions,
        num_parameters=0,  # they are in memory already
    )
    num_logit_rows = 0 if hasattr(module, "compute_logits") else sizes.scheduler.max_num_batched_tokens
    plan = _plan(module, shape, _dtype_of(module).itemsize, sizes, num_logit_rows)
    return _checked(PagedModuleNetwork(module, config, plan.max_model_len), _allocate(module, config, plan), plan)


def _load_transformers(module: torch.nn.Module, sizes: _Sizes) -> _LoadedModule:
    shape = _shape_of_transformers(module.config)
    plan = _plan(module, shape, _dtype_of(module).itemsize, sizes)
    network = TransformersNetwork.take_over(module, plan.max_model_len)
    return _checked(network, _allocate(module, shape, plan), plan)


def _shape_of_transformers(config: Any) -> ModelShape:
    """By the names that transformers gives to the sizes of all its models."""
    text = config.get_text_config()
    try:
        return ModelShape(
            num_layers=text.num_hidden_layers,
            num_heads=text.num_attention_heads,
            num_kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            hidden_size=text.hidden_size,
            intermediate_size=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
            vocab_size=text.vocab_size,
            max_model_len=getattr(text, "max_position_embeddings", None) or 0,
            num_parameters=0,  # they are in memory already
        )
    except AttributeError as error:
        raise ConfigError(f"its config lacks a size: {error_line(error)}") from error


def _load_recomputing(module: torch.nn.Module, sizes: _Sizes) -> _LoadedModule:
    log.warning(
        "%s does not use the paged attention: each of its tokens costs the whole text before it again "
        "(docs/extending.md says how to change that)",
        type(module).__name__,
    )
    try:
        network = RecomputeNetwork(module, _device_of(module))
    except _FAILURES as error:
        raise ConfigError(f"cannot run {type(module).__name__}: {error_line(error)}") from error
    shape = ModelShape(
        num_layers=1,
        num_heads=1,
        num_kv_heads=1,
        head_dim=1,
        hidden_size=0,
        intermediate_size=0,
        vocab_size=network.vocab_size,
        max_model_len=_own_length(module),
        num_parameters=0,
    )
    longest = sizes.model.max_model_len or shape.max_model_len
    plan = _plan(module, shape, _TOKEN_ID_BYTES, sizes, sizes.scheduler.max_num_batched_tokens + longest)
    kv_tensors = allocate_kv_tensors(
        TokenCacheShape(),
        num_blocks=plan.num_blocks,
        block_size=plan.block_size,
        dtype=torch.int32,
        device=_device_of(module),
    )
    return _checked(network, kv_tensors, plan)


# --- parts -----------------------------------------------------------------------------------------------------------


def _plan(
    module: torch.nn.Module, shape: ModelShape, dtype_bytes: int, sizes: _Sizes, num_logit_rows: int = 0
) -> MemoryPlan:
    """`num_logit_rows`: logits that a module makes in a step beside those that are sampled from."""
    on_cuda = _device_of(module).type == "cuda"
    if not shape.max_model_len and sizes.model.max_model_len is None:
        raise ConfigError("the module does not say how long a text may be: give max_seq_len")
    logits_bytes = num_logit_rows * shape.vocab_size * _dtype_of(module).itemsize
    return plan_memory(
        shape,
        dtype_bytes=dtype_bytes,
        max_model_len=sizes.model.max_model_len,
        cache=sizes.cache,
        scheduler=sizes.scheduler,
        available_bytes=available_bytes("cuda" if on_cuda else "cpu") - logits_bytes,
        on_cuda=on_cuda,
    )


def _allocate(module: torch.nn.Module, shape: CacheShape, plan: MemoryPlan) -> KVTensors:
    return allocate_kv_tensors(
        shape,
        num_blocks=plan.num_blocks,
        block_size=plan.block_size,
        dtype=_dtype_of(module),
        device=_device_of(module),
    )


def _checked(network: Network, kv_tensors: KVTensors, plan: MemoryPlan) -> _LoadedModule:
    try:
        network.check(kv_tensors)
    except _FAILURES as error:
        raise ConfigError(f"cannot run this module: {error_line(error)}") from error
    return _LoadedModule(network, kv_tensors, plan)


def _is_of_transformers(module: torch.nn.Module) -> bool:
    transformers = sys.modules.get("transformers")  # else nobody can have made such a module
    return transformers is not None and isinstance(module, transformers.PreTrainedModel)


def _device_of(module: torch.nn.Module) -> torch.device:
    parameter = next(module.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def _dtype_of(module: torch.nn.Module) -> torch.dtype:
    """Of its weights; a module without any computes in fp32."""
    return next((item.dtype for item in module.parameters() if item.is_floating_point()), torch.float32)


def _own_length(module: torch.nn.Module) -> int:
    """The longest text that the module says it can take; 0 where it does not."""
    for owner in (module, getattr(module, "config", None)):
        for name in _LENGTH_NAMES:
            length = getattr(owner, name, None)
            if type(length) is int:
                return length
    return 0


def _eos_token_ids(module: torch.nn.Module) -> tuple[int, ...]:
    for owner in (getattr(module, "generation_config", None), getattr(module, "config", None)):
        ids = getattr(owner, "eos_token_id", None)
        if ids is not None:
            return eos_token_ids_of(ids, type(module).__name__)
    return ()
