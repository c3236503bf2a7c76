"""Tiny GGUF files: a random Llama in any type of tensor, with a byte-level tokenizer and a chat template."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType as TensorType

HIDDEN, LAYERS, HEADS, KV_HEADS, FEED_FORWARD, LENGTH = 256, 2, 4, 2, 512, 256
CHAT_TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}<|assistant|>"
BOS, EOS = "<s>", "</s>"

_BYTES = sorted([*range(33, 127), *range(161, 173), *range(174, 256)])
_BYTE_CHARACTERS = {byte: chr(byte) for byte in _BYTES} | {
    byte: chr(256 + place) for place, byte in enumerate(byte for byte in range(256) if byte not in _BYTES)
}
"""How GPT-2's tokenizer writes bytes as characters."""
_MERGES = ["t h", "th e", "Ġ the", "i n", "Ġ a"]
TOKENS = [
    *_BYTE_CHARACTERS.values(),
    *(merge.replace(" ", "") for merge in _MERGES),
    BOS,
    EOS,
    "<|user|>",
    "<|assistant|>",
]
_NUM_SPECIAL = 4


def write_gguf(path: Path, tensor_type: TensorType) -> dict[str, npt.NDArray[np.float32]]:
    """Write a Llama whose matrices have this type; returns all tensors as gguf's own dequantization gives them."""
    writer = gguf.GGUFWriter(path, "llama")
    _add_config(writer)
    _add_tokenizer(writer)
    rng = np.random.default_rng(int(tensor_type))
    values = {}
    for name, shape in _shapes().items():
        kind = tensor_type if len(shape) == 2 else TensorType.F32
        data = _norm(rng, shape) if len(shape) == 1 else _matrix(rng, shape, kind)
        writer.add_tensor(name, data, raw_dtype=kind)
        values[name] = gguf.quants.dequantize(data, kind).astype(np.float32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def _add_config(writer: Any) -> None:
    writer.add_context_length(LENGTH)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))


def _add_tokenizer(writer: Any) -> None:
    num_normal = len(TOKENS) - _NUM_SPECIAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([gguf.TokenType.NORMAL] * num_normal + [gguf.TokenType.CONTROL] * _NUM_SPECIAL)
    writer.add_token_merges(_MERGES)
    writer.add_bos_token_id(TOKENS.index(BOS))
    writer.add_eos_token_id(TOKENS.index(EOS))
    writer.add_add_bos_token(True)
    writer.add_chat_template(CHAT_TEMPLATE)


def _shapes() -> dict[str, tuple[int, ...]]:
    kv_size = HIDDEN // HEADS * KV_HEADS
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), HIDDEN), "output_norm.weight": (HIDDEN,)}
    shapes["output.weight"] = (len(TOKENS), HIDDEN)
    for layer in range(LAYERS):
        block = {
            "attn_norm": (HIDDEN,),
            "attn_q": (HIDDEN, HIDDEN),
            "attn_k": (kv_size, HIDDEN),
            "attn_v": (kv_size, HIDDEN),
            "attn_output": (HIDDEN, HIDDEN),
            "ffn_norm": (HIDDEN,),
            "ffn_gate": (FEED_FORWARD, HIDDEN),
            "ffn_up": (FEED_FORWARD, HIDDEN),
            "ffn_down": (HIDDEN, FEED_FORWARD),
        }
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in block.items()}
    return shapes


def _norm(rng: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return rng.uniform(0.5, 1.5, shape).astype(np.float32)


def _matrix(rng: np.random.Generator, shape: tuple[int, ...], kind: TensorType) -> npt.NDArray[Any]:
    """Random numbers in a type; gguf cannot quantize to Q4_K and Q6_K, so for them the blocks themselves are random."""
    if kind in (TensorType.Q4_K, TensorType.Q6_K):
        return _random_blocks(rng, shape, kind)
    numbers = (rng.standard_normal(shape) * 0.1).astype(np.float32)
    return gguf.quants.quantize(numbers, kind)


def _random_blocks(rng: np.random.Generator, shape: tuple[int, ...], kind: TensorType) -> npt.NDArray[np.uint8]:
    block_items, block_bytes = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // block_items, block_bytes), dtype=np.uint8)
    if kind == TensorType.Q4_K:  # begins with two half floats, the scales of scales and of minima
        scales = np.array([2e-4, 1.5e-3], dtype=np.float16)  # times 0..63, the latter subtracted
        blocks[..., :4] = scales.view(np.uint8)
    else:  # ends with one; scales are -128..127, numbers -32..31
        blocks[..., -2:] = np.array([1e-4], dtype=np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)
