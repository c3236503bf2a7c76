"""The forward pass of an encoder on a flat batch of texts, without padding: only attention sees texts.

Texts of equal length lie side by side, so that attention takes them as one `[texts, heads, tokens, head_dim]` view
without a mask, and everything else takes all tokens as rows. Invariant: a text attends to its own tokens only, so its
numbers do not depend on the others but for rounding. Next: `runner.py` lays out the batch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from engine_core.model.encoder.checkpoint import Affine, EncoderLayer, EncoderWeights
from engine_core.model.encoder.config import EncoderAct, EncoderConfig

_MAX_DISTANCE = 128
"""Tokens farther apart share the last bucket of `EncoderWeights.relative_bias`."""


@dataclass(frozen=True, slots=True)
class TextGroup:
    """Texts of one length that follow each other in the flat batch."""

    start: int
    """The first row."""
    num_texts: int
    length: int
    """Tokens of each."""

    @property
    def end(self) -> int:
        """Behind the last row."""
        return self.start + self.num_texts * self.length


class EncoderNetwork:
    """An encoder with its weights."""

    def __init__(self, config: EncoderConfig, weights: EncoderWeights) -> None:
        self._config = config
        self._weights = weights
        self._act = _ACTS[config.hidden_act]

    def hidden_states(self, input_ids: torch.Tensor, groups: Sequence[TextGroup]) -> torch.Tensor:
        """`[num_tokens, hidden_size]` of the last layer, for `[num_tokens]` ids that the groups divide."""
        config, weights = self._config, self._weights
        positions = torch.cat([self._positions(input_ids[group.start : group.end], group) for group in groups])
        hidden = functional.embedding(input_ids, weights.words) + functional.embedding(positions, weights.positions)
        hidden = _norm(hidden, weights.embedding_norm, config.norm_eps)
        biases = self._relative_biases(groups)
        for layer in weights.layers:
            attended = self._attend(_linear(hidden, layer.qkv), groups, biases)
            attended = _linear(attended, layer.attention_output)
            hidden = _norm(hidden + attended, layer.attention_norm, config.norm_eps)
            hidden = _norm(hidden + self._mlp(hidden, layer), layer.output_norm, config.norm_eps)
        return hidden

    def _mlp(self, hidden: torch.Tensor, layer: EncoderLayer) -> torch.Tensor:
        return _linear(self._act(_linear(hidden, layer.up)), layer.down)

    def _positions(self, input_ids: torch.Tensor, group: TextGroup) -> torch.Tensor:
        """Row of the table of positions for each token of a group."""
        if not self._config.family.skips_padding:
            return torch.arange(group.length, device=input_ids.device).repeat(group.num_texts)
        padding_id = self._config.padding_id
        is_counted = (input_ids != padding_id).view(group.num_texts, group.length).long()
        return (is_counted.cumsum(dim=1) * is_counted + padding_id).view(-1)

    def _attend(
        self, qkv: torch.Tensor, groups: Sequence[TextGroup], biases: Sequence[torch.Tensor | None]
    ) -> torch.Tensor:
        """`[num_tokens, hidden_size]` for `[num_tokens, 3 · hidden_size]`."""
        config = self._config
        attended = qkv.new_empty(len(qkv), config.hidden_size)
        for group, bias in zip(groups, biases, strict=True):
            shape = (group.num_texts, group.length, 3, config.num_heads, config.head_dim)
            query, key, value = qkv[group.start : group.end].view(shape).permute(2, 0, 3, 1, 4)
            states = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
            attended[group.start : group.end] = states.transpose(1, 2).reshape(-1, config.hidden_size)
        return attended

    def _relative_biases(self, groups: Sequence[TextGroup]) -> list[torch.Tensor | None]:
        """`[1, num_heads, length, length]` for each group; None where the family has no such bias."""
        table = self._weights.relative_bias
        if table is None:
            return [None] * len(groups)
        buckets = [relative_buckets(group.length, len(table), table.device) for group in groups]
        return [functional.embedding(bucket, table).permute(2, 0, 1).unsqueeze(0) for bucket in buckets]


def relative_buckets(length: int, num_buckets: int, device: torch.device) -> torch.Tensor:
    """`[length, length]`: the bucket of each pair of tokens, as T5 and MPNet count: near ones exactly, far ones by the
    logarithm of their distance, and those behind apart from those before."""
    places = torch.arange(length, device=device)
    distance = places[:, None] - places[None, :]
    half, exact = num_buckets // 2, num_buckets // 4
    size = distance.abs()
    scaled = torch.log(size.float() / exact) / math.log(_MAX_DISTANCE / exact) * (half - exact)
    far = (exact + scaled.clamp(min=0).long()).clamp(max=half - 1)
    return (distance < 0).long() * half + torch.where(size < exact, size, far)


def _linear(rows: torch.Tensor, layer: Affine) -> torch.Tensor:
    return functional.linear(rows, layer.weight, layer.bias)


def _norm(rows: torch.Tensor, layer: Affine, eps: float) -> torch.Tensor:
    return functional.layer_norm(rows, layer.bias.shape, layer.weight, layer.bias, eps)


def _gelu_tanh(rows: torch.Tensor) -> torch.Tensor:
    return functional.gelu(rows, approximate="tanh")


_ACTS: Mapping[EncoderAct, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": functional.relu,
}
