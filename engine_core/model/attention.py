"""Attention over the paged KV cache, as a function that transformers' models call in every layer.

`register_attention` makes it known under the name `ATTENTION_NAME` (called by `loader.py`); a model loaded with that
`attn_implementation` builds no mask of its own and passes our two keywords through: `attention_metadata`, made once
per step by `build_attention_metadata`, and `kv_tensors`.
Invariant: the keys and values of all tokens of a step are in the cache before any of them is read, and only slots of
the request itself are ever read, so one request's numbers cannot reach another's.
Next: `model_runner.py` makes the metadata; `kv_tensors.py` is the memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import scaled_dot_product_attention

from engine_core.model.kv_tensors import KVTensors

ATTENTION_NAME = "fast_inference_paged"
MAX_GATHERED_TOKENS = 65_536
"""Most (padded) tokens of context that one group of decodes gathers at once."""

_MEANINGLESS_KEYWORDS = frozenset(
    {"position_ids", "cache_position", "use_cache", "output_attentions", "return_dict", "past_key_values", "dropout"}
)
"""Keywords that models pass on and that do not change what attention computes here."""

SlotArray = npt.NDArray[np.int64]


class UnsupportedAttentionError(RuntimeError):
    """The model asks for a kind of attention that this function does not compute."""


@dataclass(frozen=True, slots=True)
class RequestSpan:
    """One request's part of the flat batch."""

    query_start: int
    num_queries: int
    num_computed_tokens: int
    """Tokens in the cache before this step."""
    block_ids: npt.NDArray[np.int32]
    """The blocks that hold the request's tokens, this step's included; there may be more."""
    block_size: int

    @property
    def num_tokens(self) -> int:
        """Of the request, this step's included."""
        return self.num_computed_tokens + self.num_queries

    @property
    def slots(self) -> SlotArray:
        """`[num_tokens]`: slot of each token of the request."""
        offsets = np.arange(self.block_size, dtype=np.int64)
        blocks = self.block_ids[: -(-self.num_tokens // self.block_size)].astype(np.int64)
        return (blocks[:, None] * self.block_size + offsets).reshape(-1)[: self.num_tokens]


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """A request with several query tokens, computed alone."""

    query_start: int
    num_queries: int
    read_slots: torch.Tensor | None
    """Slots to read; None where all keys are this step's own."""
    mask: torch.Tensor | None
    """Additive `[num_queries, num_keys]`; None where plain causal order holds."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Requests with one query token and similar lengths, computed together."""

    rows: torch.Tensor
    """`[group]`: positions of the query tokens in the flat batch."""
    read_slots: torch.Tensor
    """`[group * max_length]`, each request padded with its own first slot."""
    mask: torch.Tensor | None
    """Additive `[group, 1, 1, max_length]`; None where all have the same length."""


@dataclass(frozen=True, slots=True)
class AttentionPlan:
    """The work of one step for one sliding window (or none)."""

    prefills: tuple[PrefillChunk, ...]
    decodes: tuple[DecodeGroup, ...]


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """All that attention must know about a step; built once and shared by its layers."""

    spans: Sequence[RequestSpan]
    dtype: torch.dtype
    device: torch.device
    _plans: dict[int | None, AttentionPlan] = field(default_factory=dict)
    _slot_mappings: list[torch.Tensor] = field(default_factory=list)

    @property
    def slot_mapping(self) -> torch.Tensor:
        """`[num_tokens]`: where each token's key and value go; made at its first use, as the kernels need none."""
        if not self._slot_mappings:
            slots = np.concatenate([span.slots[span.num_computed_tokens :] for span in self.spans])
            self._slot_mappings.append(_to_device(slots, self.device))
        return self._slot_mappings[0]

    def plan(self, sliding_window: int | None) -> AttentionPlan:
        """The step's work under a window; built at its first use, as most models have one kind of layer."""
        plan = self._plans.get(sliding_window)
        if plan is None:
            plan = self._plans[sliding_window] = _build_plan(self, sliding_window)
        return plan


def build_attention_metadata(spans: Sequence[RequestSpan], kv_tensors: KVTensors) -> AttentionMetadata:
    """Describe a step whose flat batch holds `spans` one after the other."""
    return AttentionMetadata(spans, kv_tensors.dtype, kv_tensors.device)


# --- the plan of a step ----------------------------------------------------------------------------------------------


def _build_plan(metadata: AttentionMetadata, window: int | None) -> AttentionPlan:
    prefills = [_plan_prefill(span, window, metadata) for span in metadata.spans if span.num_queries > 1]
    decodes = [span for span in metadata.spans if span.num_queries == 1]
    groups = _group_by_length(decodes, window)
    return AttentionPlan(tuple(prefills), tuple(_plan_decodes(group, window, metadata) for group in groups))


def _plan_prefill(span: RequestSpan, window: int | None, metadata: AttentionMetadata) -> PrefillChunk:
    """A causal mask is needed only behind cached context, or where the window cuts into the chunk."""
    num_keys = span.num_tokens
    is_plain = window is None or num_keys <= window
    if span.num_computed_tokens == 0 and is_plain:
        return PrefillChunk(span.query_start, span.num_queries, None, None)
    first_key = 0 if window is None else max(0, span.num_computed_tokens - window + 1)
    keys = torch.arange(first_key, num_keys, device=metadata.device)
    queries = torch.arange(span.num_computed_tokens, num_keys, device=metadata.device)[:, None]
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    read_slots = _to_device(span.slots[first_key:], metadata.device) if span.num_computed_tokens else None
    return PrefillChunk(span.query_start, span.num_queries, read_slots, _additive(hidden, metadata.dtype))


def _group_by_length(spans: Sequence[RequestSpan], window: int | None) -> list[list[RequestSpan]]:
    """Divide decodes so that padding at most doubles a group's work and no group gathers too much."""
    groups: list[list[RequestSpan]] = []
    total = 0
    for span in sorted(spans, key=lambda item: item.num_tokens):
        length = _read_length(span, window)
        padded = (len(groups[-1]) + 1) * length if groups else 0
        if groups and padded <= min(2 * (total + length), MAX_GATHERED_TOKENS):
            groups[-1].append(span)
            total += length
        else:
            groups.append([span])
            total = length
    return groups


def _read_length(span: RequestSpan, window: int | None) -> int:
    return span.num_tokens if window is None else min(span.num_tokens, window)


def _plan_decodes(group: Sequence[RequestSpan], window: int | None, metadata: AttentionMetadata) -> DecodeGroup:
    lengths = np.array([_read_length(span, window) for span in group], dtype=np.int64)
    max_length = int(lengths.max())
    read_slots = np.empty((len(group), max_length), dtype=np.int64)
    for row, span, length in zip(read_slots, group, lengths, strict=True):
        slots = span.slots[-length:]
        row[:length] = slots
        row[length:] = slots[0]
    mask = None
    if int(lengths.min()) != max_length:
        hidden = torch.from_numpy(np.arange(max_length) >= lengths[:, None]).to(metadata.device)
        mask = _additive(hidden, metadata.dtype)[:, None, None, :]
    rows = np.array([span.query_start for span in group], dtype=np.int64)
    device = metadata.device
    return DecodeGroup(_to_device(rows, device), _to_device(read_slots.reshape(-1), device), mask)


def _additive(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _to_device(values: SlotArray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


# --- what a layer calls ----------------------------------------------------------------------------------------------


class AttentionModule(Protocol):
    """What we use of a model's attention module."""

    @property
    def layer_idx(self) -> int:
        """Number of the layer."""
        ...

    @property
    def config(self) -> Any:
        """The model's config, where it has kinds of layers; else None."""
        ...


def paged_attention(
    module: AttentionModule,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    attention_metadata: AttentionMetadata | None = None,
    kv_tensors: KVTensors | None = None,
    **keywords: object,
) -> tuple[torch.Tensor, None]:
    """One layer's attention in the form that transformers calls.

    Args:
        module: the layer's attention module; its `layer_idx` names the cache tensors.
        query: `[1, num_heads, num_tokens, head_dim]`, rotated; requests one after the other.
        key: `[1, num_kv_heads, num_tokens, head_dim]`, rotated; written to the cache.
        value: the same shape as `key`.
        attention_mask: None, as no mask is built for an attention function of our own name.
        scaling: factor on query · key; 1/sqrt(head_dim) where None.
        sliding_window: each token sees this many tokens, itself included; all where None.
        is_causal: must not be False.
        softcap: scores go through softcap · tanh(score / softcap) before the softmax; not at all where None.

    Returns:
        `[1, num_tokens, num_heads, head_dim]`, and None for the weights, which are never formed.

    Raises:
        UnsupportedAttentionError: a keyword would change the result, or our own keywords are missing.
    """
    if attention_metadata is None or kv_tensors is None:
        raise UnsupportedAttentionError("the model does not pass attention_metadata and kv_tensors to its attention")
    if attention_mask is not None or is_causal is False:
        raise UnsupportedAttentionError("the model makes an attention mask of its own")
    for name, keyword in keywords.items():
        if keyword is not None and name not in _MEANINGLESS_KEYWORDS:
            raise UnsupportedAttentionError(f"the model's attention uses {name}, which is not supported")
    keys, values = kv_tensors.keys[module.layer_idx], kv_tensors.values[module.layer_idx]
    new_keys, new_values = key[0].transpose(0, 1), value[0].transpose(0, 1)
    keys.index_copy_(0, attention_metadata.slot_mapping, new_keys)
    values.index_copy_(0, attention_metadata.slot_mapping, new_values)

    output = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)
    plan = attention_metadata.plan(_window_of(module, sliding_window))
    for chunk in plan.prefills:
        span = slice(chunk.query_start, chunk.query_start + chunk.num_queries)
        if chunk.read_slots is None:
            chunk_keys, chunk_values = key[:, :, span], value[:, :, span]
        else:
            chunk_keys, chunk_values = _gather(keys, chunk.read_slots, 1), _gather(values, chunk.read_slots, 1)
        output[span] = _attend_prefill(query[:, :, span], chunk_keys, chunk_values, chunk.mask, scaling, softcap)
    for group in plan.decodes:
        size = group.rows.shape[0]
        group_keys, group_values = _gather(keys, group.read_slots, size), _gather(values, group.read_slots, size)
        group_query = query[0].index_select(1, group.rows)
        output[group.rows] = _attend_decodes(group_query, group_keys, group_values, group.mask, scaling, softcap)
    return output.unsqueeze(0), None


def _window_of(module: AttentionModule, sliding_window: int | None) -> int | None:
    """The layer's window: the keyword, or what the config says of a sliding layer that does not pass it on."""
    if sliding_window is not None:
        return sliding_window
    layer_types = getattr(module.config, "layer_types", None)
    if layer_types is None or layer_types[module.layer_idx] != "sliding_attention":
        return None
    window = getattr(module, "sliding_window", None) or getattr(module.config, "sliding_window", None)
    if not isinstance(window, int):
        raise UnsupportedAttentionError("the model has sliding layers without a window")
    return window


def _gather(tensor: torch.Tensor, slots: torch.Tensor, num_requests: int) -> torch.Tensor:
    """Read slots of `[num_slots, num_kv_heads, head_dim]` as `[num_requests, num_kv_heads, length, head_dim]`."""
    _, num_kv_heads, head_dim = tensor.shape
    return tensor.index_select(0, slots).view(num_requests, -1, num_kv_heads, head_dim).transpose(1, 2)


def _attend_prefill(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """`[1, num_heads, num_queries, head_dim]` against one request's keys; returns `[num_queries, num_heads, …]`."""
    if softcap is None:
        attended = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True
        )
    else:
        if mask is None:
            num_queries = query.shape[2]
            is_later = torch.ones(num_queries, num_queries, dtype=torch.bool, device=query.device).triu(1)
            mask = _additive(is_later, query.dtype)
        group = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        attended = _attend_capped(query, keys, values, mask, scaling, softcap)
    return attended[0].transpose(0, 1)


def _attend_decodes(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float | None,
) -> torch.Tensor:
    """`[num_heads, group, head_dim]` against each request's own keys; returns `[group, num_heads, head_dim]`.

    The query heads that share a KV head are laid out as query positions of that head: for a single token there is no
    order among them, so this is exact and reads each key once.
    """
    num_heads, group, head_dim = query.shape
    packed = query.transpose(0, 1).reshape(group, keys.shape[1], -1, head_dim)
    if softcap is None:
        attended = scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=scaling)
    else:
        attended = _attend_capped(packed, keys, values, mask, scaling, softcap)
    return attended.reshape(group, num_heads, head_dim)


def _attend_capped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention with a soft cap, which torch's own function does not have; as many heads of keys as of queries."""
    scores = query @ keys.transpose(-1, -2) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    return scores.float().softmax(dim=-1).to(values.dtype) @ values


def register_attention() -> None:
    """Make `paged_attention` known to transformers; calling it again changes nothing."""
    from transformers import AttentionInterface

    if ATTENTION_NAME not in AttentionInterface._global_mapping:
        AttentionInterface.register(ATTENTION_NAME, paged_attention)
