#!/usr/bin/env python3
"""Trains a small MinimalLLM on a text file, in minutes on a CPU, and saves it as the `.pt` file that `serve` takes.

    scripts/train_minimal_llm.py TEXT --output models/final_model1.pt [--generation A|A-tokens|B|C]
    scripts/serve models/final_model1.pt [--rope ...]

Without --tokenizer it trains a byte-level BPE on the same text and writes it beside the checkpoint, where `serve` finds
it. `<|endoftext|>` in the text ends a document; `<|system|>`, `<|user|>` and `<|assistant|>` head sections of a chat.
The generations differ in their attention: A turns queries and keys by the number of the head, A-tokens by the position,
B the same in pairs (2i, 2i + 1), C has separate projections, fewer key-value heads and a norm for each head.
"""

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention, silu

ROPES = {"A": "heads", "A-tokens": "tokens", "B": "interleaved", "C": "interleaved"}
"""What `--rope` of the server says of each generation."""
DEFAULT_ROPES = {"A": "heads", "C": "interleaved"}
"""Generations that need no `--rope`."""
EOS = "<|endoftext|>"
SPECIAL_TOKENS = [EOS, "<|system|>", "<|user|>", "<|assistant|>"]
WARMUP_STEPS = 20


@dataclass
class MinimalLLMConfig:
    """Saved with the weights."""

    d_model: int
    n_heads: int
    n_layers: int
    d_ff: int
    max_seq_len: int
    dropout: float
    vocab_size: int
    n_kv_heads: int | None = None


class Rotary(nn.Module):
    """Turns `[batch, heads, tokens, head_dim]` by angles of one of three kinds."""

    def __init__(self, config: MinimalLLMConfig, rope: str) -> None:
        super().__init__()
        head_dim = config.d_model // config.n_heads
        if rope == "interleaved":
            frequencies = 10_000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
        else:
            turning = (1 / 10_000) ** torch.linspace(0, 1, steps=head_dim // 4)
            frequencies = torch.cat([turning, torch.zeros(head_dim // 4)])
        angles = torch.outer(torch.arange(config.max_seq_len, dtype=torch.float32), frequencies)
        self.rope = rope
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The same shape."""
        if self.rope == "heads":  # the quirk of the first generation: a row of the table for each head
            cos, sin = (table[: states.shape[1]][:, None] for table in (self.cos, self.sin))
        else:
            cos, sin = (table[: states.shape[2]] for table in (self.cos, self.sin))
        if self.rope == "interleaved":
            even, odd = states[..., 0::2], states[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
        first, second = states.chunk(2, dim=-1)
        return torch.cat([first * cos + second * sin, -first * sin + second * cos], dim=-1)


class FusedAttention(nn.Module):
    """Of the generations before C."""

    def __init__(self, config: MinimalLLMConfig, rope: str) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.w_o = nn.Linear(config.d_model, config.d_model, bias=False)
        self.rotary = Rotary(config, rope)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, d_model]`."""
        batch, num_tokens, d_model = hidden.shape
        qkv = self.qkv(hidden).view(batch, num_tokens, 3, self.n_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(
            self.rotary(query), self.rotary(key), value, is_causal=True, dropout_p=dropout
        )
        return self.w_o(attended.transpose(1, 2).reshape(batch, num_tokens, d_model))


class GroupedAttention(nn.Module):
    """Of generation C."""

    def __init__(self, config: MinimalLLMConfig, rope: str) -> None:
        super().__init__()
        self.head_dim, self.dropout = config.d_model // config.n_heads, config.dropout
        self.n_kv_heads = config.n_kv_heads or config.n_heads
        self.num_repeats = config.n_heads // self.n_kv_heads
        self.q_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.k_proj = nn.Linear(config.d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.d_model, self.n_kv_heads * self.head_dim, bias=False)
        self.w_o = nn.Linear(config.d_model, config.d_model, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(self.head_dim), nn.RMSNorm(self.head_dim)
        self.rotary = Rotary(config, rope)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, d_model]`."""
        batch, num_tokens, d_model = hidden.shape
        query, key, value = (
            projection(hidden).view(batch, num_tokens, -1, self.head_dim).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = self.rotary(self.q_norm(query)), self.rotary(self.k_norm(key))
        key, value = (states.repeat_interleave(self.num_repeats, dim=1) for states in (key, value))
        dropout = self.dropout if self.training else 0.0
        attended = scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        return self.w_o(attended.transpose(1, 2).reshape(batch, num_tokens, d_model))


class FeedForward(nn.Module):
    """An MLP without a gate."""

    def __init__(self, config: MinimalLLMConfig) -> None:
        super().__init__()
        self.linear1 = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.linear2 = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, d_model]`."""
        return self.linear2(self.dropout(silu(self.linear1(hidden))))


class TransformerBlock(nn.Module):
    """Norm, attention, norm, MLP."""

    def __init__(self, config: MinimalLLMConfig, generation: str) -> None:
        super().__init__()
        attention = GroupedAttention if generation == "C" else FusedAttention
        self.attention = attention(config, ROPES[generation])
        self.feed_forward = FeedForward(config)
        self.norm1, self.norm2 = nn.RMSNorm(config.d_model), nn.RMSNorm(config.d_model)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """`[batch, tokens, d_model]`."""
        hidden = hidden + self.dropout(self.attention(self.norm1(hidden)))
        return hidden + self.dropout(self.feed_forward(self.norm2(hidden)))


class MinimalLLM(nn.Module):
    """The whole model; the names of its parameters are those of the format."""

    def __init__(self, config: MinimalLLMConfig, generation: str) -> None:
        super().__init__()
        self.scale = math.sqrt(config.d_model)
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(config, generation) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)
        self.lm_head.weight = self.token_embedding.weight

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """Logits `[batch, tokens, vocab_size]`."""
        hidden = self.token_embedding(token_ids) * self.scale
        for block in self.transformer_blocks:
            hidden = block(hidden)
        return self.lm_head(self.norm(hidden))


def train_tokenizer(text: str, vocab_size: int) -> Tokenizer:
    """A byte-level BPE, which can write every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """As `tokenizer.json`, beside the checkpoint."""
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS}))


def train(
    model: MinimalLLM, token_ids: torch.Tensor, arguments: argparse.Namespace, num_tokens: int
) -> tuple[int, float]:
    """Train on windows of `num_tokens`; returns the steps that were made and the last loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    starts, began, loss = len(token_ids) - num_tokens, time.monotonic(), math.nan
    model.train()
    for step in range(1, arguments.steps + 1):
        share = min(1.0, max(step / arguments.steps, (time.monotonic() - began) / arguments.max_seconds))
        rate = min(step / WARMUP_STEPS, 0.5 * (1 + math.cos(math.pi * share)) * 0.9 + 0.1)
        for group in optimizer.param_groups:
            group["lr"] = arguments.learning_rate * rate
        windows = torch.stack(
            [token_ids[at : at + num_tokens + 1] for at in torch.randint(starts, (arguments.batch_size,))]
        )
        logits = model(windows[:, :-1])
        step_loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        step_loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss, elapsed = step_loss.item(), time.monotonic() - began
        is_late = elapsed > arguments.max_seconds
        if step == 1 or step % arguments.report_every == 0 or step == arguments.steps or is_late:
            rate = step * arguments.batch_size * num_tokens / elapsed
            print(f"step {step}/{arguments.steps}  loss {loss:.3f}  {rate:,.0f} tokens/s", flush=True)
        if is_late:
            print(f"stopped after {arguments.max_seconds:.0f} s (--max-seconds)")
            return step, loss
    return arguments.steps, loss


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.pt")
    parser.add_argument("--generation", choices=sorted(ROPES), default="A")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", help="with tokenizer.json, instead of a new one")
    sizes = {"d-model": 192, "n-heads": 4, "n-layers": 4, "d-ff": 768, "max-seq-len": 256, "vocab-size": 2048}
    for name, default in {**sizes, "steps": 300, "batch-size": 8, "seed": 0, "report-every": 10}.items():
        parser.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"default: {default}")
    parser.add_argument("--n-kv-heads", type=int, metavar="N", help="of generation C; default: half of the heads")
    parser.add_argument("--dropout", type=float, default=0.0, metavar="X")
    parser.add_argument("--learning-rate", type=float, default=2e-3, metavar="X", help="default: 0.002")
    parser.add_argument("--threads", type=int, metavar="N", help="default: torch's")
    parser.add_argument("--max-seconds", type=float, default=150.0, metavar="S", help="of training; default: 150")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Entry of the command; returns the exit status."""
    arguments = parse(argv)
    text = arguments.text.read_text(encoding="utf-8")
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.tokenizer is None:
        tokenizer = train_tokenizer(text, arguments.vocab_size)
        save_tokenizer(tokenizer, arguments.output.parent)
    else:
        tokenizer = Tokenizer.from_file(str(arguments.tokenizer / "tokenizer.json"))
    token_ids = torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)
    num_tokens = min(arguments.max_seq_len, len(token_ids) - 2)
    if num_tokens < 1:
        print(
            f"error: {arguments.text} has {len(token_ids)} tokens, which is too little to learn from", file=sys.stderr
        )
        return 1
    config = MinimalLLMConfig(
        d_model=arguments.d_model,
        n_heads=arguments.n_heads,
        n_layers=arguments.n_layers,
        d_ff=arguments.d_ff,
        max_seq_len=arguments.max_seq_len,
        dropout=arguments.dropout,
        vocab_size=tokenizer.get_vocab_size(),
    )
    if arguments.generation == "C":
        config.n_kv_heads = arguments.n_kv_heads or max(1, arguments.n_heads // 2)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    model = MinimalLLM(config, arguments.generation)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"generation {arguments.generation}, {num_parameters:,} parameters, {len(token_ids):,} tokens of text")
    steps, loss = train(model, token_ids, arguments, num_tokens)
    checkpoint = {"config": config, "model_state_dict": model.state_dict(), "step": steps, "loss": loss}
    torch.save(checkpoint, arguments.output)
    flags = "" if arguments.generation in DEFAULT_ROPES else f" --rope {ROPES[arguments.generation]}"
    flags += f" --tokenizer {arguments.tokenizer}" if arguments.tokenizer else ""
    print(f"saved {arguments.output}; serve it: scripts/serve {arguments.output}{flags}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
