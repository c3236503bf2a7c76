"""MinimalLLM as its description says, in plain torch, and checkpoints of it with random weights.

Nothing of ours computes here: no decoder, no layout of ours. Beside it, what tests of such checkpoints share.
"""

import importlib.util
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch.nn.functional import rms_norm, silu

from ipc.tokenizer_files import cache_root

VARIANTS = {"A": "heads", "A-tokens": "tokens", "B": "interleaved", "C": "interleaved"}
"""For each generation, what `--rope` says of it."""


@contextmanager
def training_script() -> Iterator[ModuleType]:
    """`scripts/train_minimal_llm.py` as a module."""
    path = Path(__file__).parents[1] / "scripts/train_minimal_llm.py"
    spec = importlib.util.spec_from_file_location("train_minimal_llm", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where torch.save looks for the config
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def cache_with_kernels(folder: Path) -> dict[str, str]:
    """An environment with a model cache of its own, where the kernels are compiled already."""
    (cache_root() / "kernels").mkdir(parents=True, exist_ok=True)
    (folder / "fast-inference").mkdir()
    (folder / "fast-inference" / "kernels").symlink_to(cache_root() / "kernels")
    return {"XDG_CACHE_HOME": str(folder)}


@dataclass
class MinimalLLMConfig:
    d_model: int = 64
    n_heads: int = 4
    n_layers: int = 3
    d_ff: int = 96
    max_seq_len: int = 256
    dropout: float = 0.1
    vocab_size: int = 199
    n_kv_heads: int | None = None


def config_of(variant: str, **sizes) -> MinimalLLMConfig:
    return MinimalLLMConfig(**({"n_kv_heads": 2} if variant == "C" else {}), **sizes)


def random_state(variant: str, config: MinimalLLMConfig) -> dict[str, torch.Tensor]:
    """Weights under the names of the format, large enough that positions and norms matter."""
    generator = torch.Generator().manual_seed(5)
    head_dim = config.d_model // config.n_heads

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * (1.5 / columns**0.5)

    def norm(size: int) -> torch.Tensor:
        return 1 + 0.2 * torch.randn(size, generator=generator)

    state = {"token_embedding.weight": matrix(config.vocab_size, config.d_model)}
    for index in range(config.n_layers):
        block = {
            "attention.w_o.weight": matrix(config.d_model, config.d_model),
            "feed_forward.linear1.weight": matrix(config.d_ff, config.d_model),
            "feed_forward.linear2.weight": matrix(config.d_model, config.d_ff),
            "norm1.weight": norm(config.d_model),
            "norm2.weight": norm(config.d_model),
        }
        if variant == "C":
            kv_rows = config.n_kv_heads * head_dim
            block["attention.q_proj.weight"] = matrix(config.d_model, config.d_model)
            block["attention.k_proj.weight"] = matrix(kv_rows, config.d_model)
            block["attention.v_proj.weight"] = matrix(kv_rows, config.d_model)
            block["attention.q_norm.weight"] = norm(head_dim)
            block["attention.k_norm.weight"] = norm(head_dim)
        else:
            block["attention.qkv.weight"] = matrix(3 * config.d_model, config.d_model)
        state |= {f"transformer_blocks.{index}.{name}": tensor for name, tensor in block.items()}
    state["norm.weight"] = norm(config.d_model)
    state["lm_head.weight"] = state["token_embedding.weight"]
    return state


def save_checkpoint(path: Path, variant: str, **sizes) -> dict[str, torch.Tensor]:
    """A file as training writes it; returns the weights."""
    config = config_of(variant, **sizes)
    state = random_state(variant, config)
    torch.save({"config": config, "model_state_dict": state, "step": 7, "final_metrics": {"val_loss": 1.5}}, path)
    return state


@torch.inference_mode()
def reference_logits(
    variant: str, config: MinimalLLMConfig, state: dict[str, torch.Tensor], token_ids: torch.Tensor
) -> torch.Tensor:
    """`[num_tokens, vocab_size]` for one sequence of token ids."""
    hidden = state["token_embedding.weight"][token_ids][None] * math.sqrt(config.d_model)
    for index in range(config.n_layers):
        prefix = f"transformer_blocks.{index}."
        block = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        hidden = hidden + _attention(variant, config, block, _norm(hidden, block["norm1.weight"]))
        fed = silu(_norm(hidden, block["norm2.weight"]) @ block["feed_forward.linear1.weight"].T)
        hidden = hidden + fed @ block["feed_forward.linear2.weight"].T
    return (_norm(hidden, state["norm.weight"]) @ state["lm_head.weight"].T)[0]


def _norm(states: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return rms_norm(states, weight.shape, weight)


def _attention(
    variant: str, config: MinimalLLMConfig, block: dict[str, torch.Tensor], hidden: torch.Tensor
) -> torch.Tensor:
    batch, num_tokens, d_model = hidden.shape
    heads, head_dim = config.n_heads, config.d_model // config.n_heads
    if variant == "C":
        query, key, value = (
            (hidden @ block[f"attention.{name}_proj.weight"].T).view(batch, num_tokens, -1, head_dim).transpose(1, 2)
            for name in "qkv"
        )
        query, key = (_norm(states, block[f"attention.{n}_norm.weight"]) for states, n in ((query, "q"), (key, "k")))
    else:
        qkv = (hidden @ block["attention.qkv.weight"].T).view(batch, num_tokens, 3, heads, head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each [batch, heads, tokens, dim]
    rotate = {"A": _turned_by_heads, "A-tokens": _turned_by_tokens}.get(variant, _turned_in_pairs)
    query, key = rotate(query), rotate(key)
    repeats = heads // key.shape[1]
    key, value = (states.repeat_interleave(repeats, dim=1) for states in (key, value))
    scores = (query @ key.transpose(-1, -2)) / math.sqrt(head_dim)
    hidden_ones = torch.ones(num_tokens, num_tokens, dtype=torch.bool).triu(1)
    attended = scores.masked_fill(hidden_ones, -math.inf).softmax(dim=-1) @ value
    return attended.transpose(1, 2).reshape(batch, num_tokens, d_model) @ block["attention.w_o.weight"].T


def _table(length: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    frequencies = (1 / 10000) ** torch.linspace(0, 1, steps=head_dim // 4)
    frequencies = torch.cat([frequencies, torch.zeros(head_dim // 4)])
    angles = torch.outer(torch.arange(length).float(), frequencies)
    return angles.cos(), angles.sin()


def _halves_turned(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = states.chunk(2, dim=-1)
    return torch.cat([first * cos + second * sin, -first * sin + second * cos], dim=-1)


def _turned_by_heads(states: torch.Tensor) -> torch.Tensor:
    """The seed's quirk: row h of the table for head h of [batch, heads, tokens, dim], whatever the token."""
    cos, sin = _table(states.shape[1], states.shape[-1])
    return _halves_turned(states, cos[None, :, None], sin[None, :, None])


def _turned_by_tokens(states: torch.Tensor) -> torch.Tensor:
    cos, sin = _table(states.shape[2], states.shape[-1])
    return _halves_turned(states, cos[None, None], sin[None, None])


def _turned_in_pairs(states: torch.Tensor) -> torch.Tensor:
    """The usual rotary embedding, on pairs (x[2i], x[2i + 1])."""
    head_dim = states.shape[-1]
    frequencies = 10000 ** (-torch.arange(0, head_dim, 2).float() / head_dim)
    angles = torch.outer(torch.arange(states.shape[2]).float(), frequencies)
    even, odd = states[..., 0::2], states[..., 1::2]
    turned = torch.stack([even * angles.cos() - odd * angles.sin(), even * angles.sin() + odd * angles.cos()], dim=-1)
    return turned.flatten(-2)
