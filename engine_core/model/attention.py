"""What a step's attention is: one object that every layer calls with its queries, keys and values.

`build_attention_metadata` makes it once per step, for the device of the cache: plain torch, or Triton kernels on a GPU
(the CPU kernels of `decoder/native_network.py` attend by themselves and read the spans only).
Invariant: the keys and values of all tokens of a step are in the cache before any of them is read, and only slots of
the request itself are ever read, so one request's numbers cannot reach another's.
Next: `torch_attention.py`, `cuda/attention.py`; `kv_tensors.py` is the memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import torch

from engine_core.model.kv_tensors import KVTensors
from engine_core.model.lora.step_adapters import StepAdapters
from engine_core.model.request_span import RequestSpan
from engine_core.model.torch_attention import TorchAttention


class UnsupportedAttentionError(RuntimeError):
    """The model asks for a kind of attention that is not computed here."""


class StepAttention(Protocol):
    """Attention for all requests of one step."""

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        *,
        scale: float,
        window: int | None,
        softcap: float | None,
    ) -> torch.Tensor:
        """Write one layer's keys and values to its cache, then attend to all that each token may see.

        Args:
            query: `[num_tokens, num_heads, head_dim]`, rotated; requests one after the other.
            key: `[num_tokens, num_kv_heads, head_dim]`, rotated.
            value: the same shape as `key`.
            keys: the layer's cache, `[num_slots, num_kv_heads, head_dim]`.
            values: the same shape as `keys`.
            scale: factor on query · key.
            window: each token sees this many tokens, itself included; all where None.
            softcap: scores go through softcap · tanh(score / softcap) before the softmax; not at all where None.

        Returns:
            `[num_tokens, num_heads, head_dim]`, contiguous.
        """
        ...


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """All that a network must know about a step; built once and shared by its layers."""

    spans: Sequence[RequestSpan]
    attention: StepAttention
    adapters: StepAdapters | None = None
    """None where no token has one."""


def has_triton(device: torch.device) -> bool:
    """Whether steps on this device can be computed by the kernels of `cuda/`; torch for CUDA brings Triton along."""
    return device.type == "cuda" and find_spec("triton") is not None


def build_attention_metadata(
    spans: Sequence[RequestSpan],
    kv_tensors: KVTensors,
    adapters: StepAdapters | None = None,
    *,
    in_plain_torch: bool = False,
) -> AttentionMetadata:
    """Describe a step whose flat batch holds `spans` one after the other."""
    if in_plain_torch or not has_triton(kv_tensors.device):
        attention: StepAttention = TorchAttention(spans, kv_tensors.dtype, kv_tensors.device)
    else:
        from engine_core.model.cuda.attention import TritonAttention  # Triton is installed only beside CUDA

        attention = TritonAttention.of(spans, kv_tensors.device)
    return AttentionMetadata(spans, attention, adapters)
