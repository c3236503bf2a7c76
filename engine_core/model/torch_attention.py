"""Attention over the paged KV cache in plain torch, on any device: what the kernels are tested against.

Prefill chunks are computed one by one, decodes of similar lengths together; keys are gathered from the cache first.
A step's plan is made once for each sliding window and shared by the layers. Made by `attention.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from engine_core.model.request_span import RequestSpan, SlotArray

MAX_GATHERED_TOKENS = 65_536
"""Most (padded) tokens of context that one group of decodes gathers at once."""


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


class TorchAttention:
    """Implements `StepAttention`."""

    def __init__(self, spans: Sequence[RequestSpan], dtype: torch.dtype, device: torch.device) -> None:
        """`dtype` is that of the cache."""
        self._spans = spans
        self._dtype = dtype
        self._device = device
        self._plans: dict[int | None, AttentionPlan] = {}
        self._slot_mapping: torch.Tensor | None = None

    @property
    def slot_mapping(self) -> torch.Tensor:
        """`[num_tokens]`: where each token's key and value go; made at its first use, as the CPU kernels need none."""
        if self._slot_mapping is None:
            slots = np.concatenate([span.slots[span.num_computed_tokens :] for span in self._spans])
            self._slot_mapping = _to_device(slots, self._device)
        return self._slot_mapping

    def plan(self, window: int | None) -> AttentionPlan:
        """The step's work under a window; made at its first use, as most models have one kind of layer."""
        plan = self._plans.get(window)
        if plan is None:
            plan = self._plans[window] = _build_plan(self._spans, window, self._dtype, self._device)
        return plan

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
        """See `StepAttention.attend`."""
        keys.index_copy_(0, self.slot_mapping, key)
        values.index_copy_(0, self.slot_mapping, value)
        query, key, value = (states.transpose(0, 1)[None] for states in (query, key, value))
        output = torch.empty_like(query[0].transpose(0, 1), memory_format=torch.contiguous_format)
        plan = self.plan(window)
        for chunk in plan.prefills:
            span = slice(chunk.query_start, chunk.query_start + chunk.num_queries)
            if chunk.read_slots is None:
                chunk_keys, chunk_values = key[:, :, span], value[:, :, span]
            else:
                chunk_keys, chunk_values = _gather(keys, chunk.read_slots, 1), _gather(values, chunk.read_slots, 1)
            output[span] = _attend_prefill(query[:, :, span], chunk_keys, chunk_values, chunk.mask, scale, softcap)
        for group in plan.decodes:
            size = group.rows.shape[0]
            group_keys, group_values = _gather(keys, group.read_slots, size), _gather(values, group.read_slots, size)
            group_query = query[0].index_select(1, group.rows)
            output[group.rows] = _attend_decodes(group_query, group_keys, group_values, group.mask, scale, softcap)
        return output


# --- the plan of a step ----------------------------------------------------------------------------------------------


def _build_plan(
    spans: Sequence[RequestSpan], window: int | None, dtype: torch.dtype, device: torch.device
) -> AttentionPlan:
    prefills = [_plan_prefill(span, window, dtype, device) for span in spans if span.num_queries > 1]
    groups = _group_by_length([span for span in spans if span.num_queries == 1], window)
    return AttentionPlan(tuple(prefills), tuple(_plan_decodes(group, window, dtype, device) for group in groups))


def _plan_prefill(span: RequestSpan, window: int | None, dtype: torch.dtype, device: torch.device) -> PrefillChunk:
    """A causal mask is needed only behind cached context, or where the window cuts into the chunk."""
    num_keys = span.num_tokens
    is_plain = window is None or num_keys <= window
    if span.num_computed_tokens == 0 and is_plain:
        return PrefillChunk(span.query_start, span.num_queries, None, None)
    first_key = 0 if window is None else max(0, span.num_computed_tokens - window + 1)
    keys = torch.arange(first_key, num_keys, device=device)
    queries = torch.arange(span.num_computed_tokens, num_keys, device=device)[:, None]
    hidden = keys > queries
    if window is not None:
        hidden |= keys <= queries - window
    read_slots = _to_device(span.slots[first_key:], device) if span.num_computed_tokens else None
    return PrefillChunk(span.query_start, span.num_queries, read_slots, _additive(hidden, dtype))


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


def _plan_decodes(
    group: Sequence[RequestSpan], window: int | None, dtype: torch.dtype, device: torch.device
) -> DecodeGroup:
    lengths = np.array([_read_length(span, window) for span in group], dtype=np.int64)
    max_length = int(lengths.max())
    read_slots = np.empty((len(group), max_length), dtype=np.int64)
    for row, span, length in zip(read_slots, group, lengths, strict=True):
        slots = span.slots[-length:]
        row[:length] = slots
        row[length:] = slots[0]
    mask = None
    if int(lengths.min()) != max_length:
        hidden = torch.from_numpy(np.arange(max_length) >= lengths[:, None]).to(device)
        mask = _additive(hidden, dtype)[:, None, None, :]
    rows = np.array([span.query_start for span in group], dtype=np.int64)
    return DecodeGroup(_to_device(rows, device), _to_device(read_slots.reshape(-1), device), mask)


def _additive(hidden: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _to_device(values: SlotArray, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


# --- the computation ------------------------------------------------------------------------------------------------


def _gather(tensor: torch.Tensor, slots: torch.Tensor, num_requests: int) -> torch.Tensor:
    """Read slots of `[num_slots, num_kv_heads, head_dim]` as `[num_requests, num_kv_heads, length, head_dim]`."""
    _, num_kv_heads, head_dim = tensor.shape
    return tensor.index_select(0, slots).view(num_requests, -1, num_kv_heads, head_dim).transpose(1, 2)


def _attend_prefill(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """`[1, num_heads, num_queries, head_dim]` against one request's keys; returns `[num_queries, num_heads, …]`."""
    if softcap is None:
        attended = scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=True
        )
    else:
        if mask is None:
            num_queries = query.shape[2]
            is_later = torch.ones(num_queries, num_queries, dtype=torch.bool, device=query.device).triu(1)
            mask = _additive(is_later, query.dtype)
        group = query.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(group, dim=1), values.repeat_interleave(group, dim=1)
        attended = _attend_capped(query, keys, values, mask, scale, softcap)
    return attended[0].transpose(0, 1)


def _attend_decodes(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float | None,
) -> torch.Tensor:
    """`[num_heads, group, head_dim]` against each request's own keys; returns `[group, num_heads, head_dim]`.

    The query heads that share a KV head are laid out as query positions of that head: for a single token there is no
    order among them, so this is exact and reads each key once.
    """
    num_heads, group, head_dim = query.shape
    packed = query.transpose(0, 1).reshape(group, keys.shape[1], -1, head_dim)
    if softcap is None:
        attended = scaled_dot_product_attention(packed, keys, values, attn_mask=mask, scale=scale)
    else:
        attended = _attend_capped(packed, keys, values, mask, scale, softcap)
    return attended.reshape(group, num_heads, head_dim)


def _attend_capped(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
    softcap: float,
) -> torch.Tensor:
    """Attention with a soft cap, which torch's own function does not have; as many heads of keys as of queries."""
    scores = query @ keys.transpose(-1, -2) * scale
    scores = torch.tanh(scores / softcap) * softcap
    if mask is not None:
        scores = scores + mask
    return scores.float().softmax(dim=-1).to(values.dtype) @ values
