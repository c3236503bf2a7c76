#!/usr/bin/env python3
"""A model of your own on the paged KV cache: a small transformer with random weights, which nothing was trained for.

    python examples/custom_model.py                     # generates some text
    python examples/custom_model.py --serve --port 8000 # and serves it over the OpenAI API

What the engine needs of a module is in the class: `paged_attention_config`, and a `forward` that calls `attention`.
docs/extending.md explains both.
"""

import argparse
import logging

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from torch.nn import functional

from fast_inference.core.engine import OpenAIServingEngine, PagedAttentionConfig, create_universal_vllm_style_engine


def byte_tokenizer():
    """One token for each byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


class Block(nn.Module):
    """Attention and a feed-forward layer."""

    def __init__(self, layer, width, num_heads):
        super().__init__()
        self.layer = layer
        self.num_heads = num_heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv, self.output = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, hidden, attention):
        """`[num_tokens, width]`: the tokens of all requests one after the other; only `attention` knows whose."""
        num_tokens, width = hidden.shape
        query, key, value = self.qkv(self.norm1(hidden)).view(num_tokens, 3, self.num_heads, -1).unbind(1)
        attended = attention(self.layer, query, key, value)
        hidden = hidden + self.output(attended.reshape(num_tokens, width))
        return hidden + self.down(functional.silu(self.up(self.norm2(hidden))))


class TinyModel(nn.Module):
    """A decoder with learned positions."""

    def __init__(self, vocab_size=256, width=64, num_layers=2, num_heads=4, max_positions=512):
        super().__init__()
        self.config = PagedAttentionConfig(
            num_layers=num_layers,
            num_kv_heads=num_heads,
            head_dim=width // num_heads,
            vocab_size=vocab_size,
            hidden_size=width,
            max_positions=max_positions,
        )
        self.tokens, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(max_positions, width)
        self.blocks = nn.ModuleList(Block(layer, width, num_heads) for layer in range(num_layers))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocab_size)

    def paged_attention_config(self):
        """The sizes of the cache."""
        return self.config

    def forward(self, input_ids, positions, attention):
        """Hidden states `[num_tokens, width]` of `[num_tokens]` tokens; `positions` are within their requests."""
        hidden = self.tokens(input_ids) + self.positions(positions)
        for block in self.blocks:
            hidden = block(hidden, attention)
        return self.norm(hidden)

    def compute_logits(self, hidden):
        """`[rows, vocab_size]`, asked for where a token is to be sampled."""
        return self.head(hidden)


def main():
    """Entry of the example."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="serve the model over HTTP until Ctrl-C")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    torch.manual_seed(0)
    with create_universal_vllm_style_engine(TinyModel(), tokenizer=byte_tokenizer()) as engine:
        print("whole:   ", repr(engine.generate("Once upon a time", max_tokens=12, temperature=0.0)))
        print("several: ", engine.generate(["one", "two", "three"], max_tokens=6, temperature=0.0))
        print("streamed:", list(engine.generate("Hello", max_tokens=6, stream=True, seed=1)))
        if arguments.serve:
            OpenAIServingEngine(engine, "tiny-model").serve(arguments.host, arguments.port)


if __name__ == "__main__":
    main()
