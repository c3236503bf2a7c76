"""Modules that somebody might have written: the one of the example, and the same without our attention."""

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from examples.custom_model import TinyModel, byte_tokenizer

__all__ = ["PlainModel", "byte_tokenizer", "tiny_model"]


def tiny_model(**sizes) -> TinyModel:
    torch.manual_seed(0)
    return TinyModel(**sizes)


class PlainModel(nn.Module):
    """`[batch, tokens]` to logits `[batch, tokens, vocab_size]`, with the weights of another module."""

    def __init__(self, inner: TinyModel) -> None:
        super().__init__()
        self.inner = inner
        self.max_seq_len = inner.config.max_positions

    def forward(self, input_ids):
        positions = torch.arange(input_ids.shape[1])
        rows = [self.inner.compute_logits(self.inner(ids, positions, _causal_attention)) for ids in input_ids]
        return torch.stack(rows)


def _causal_attention(layer, query, key, value):
    heads_first = (tensor.transpose(0, 1) for tensor in (query, key, value))
    return scaled_dot_product_attention(*heads_first, is_causal=True).transpose(0, 1)
