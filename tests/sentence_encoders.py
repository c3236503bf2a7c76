"""Tiny random sentence encoders in the layout of sentence-transformers, and what transformers says of their texts."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

NUM_POSITIONS = 66
MAX_SEQ_LENGTH = 48
WORDS = ["the", "a", "cat", "dog", "sat", "on", "mat", "sun", "rain", "##s", "##ing", "ü", "日", "本", ".", ",", "?"]
LETTERS = [f"{prefix}{letter}" for prefix in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *LETTERS, *WORDS]
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": NUM_POSITIONS,
    "initializer_range": 0.3,
}
DISTILBERT_SIZES = {
    "vocab_size": len(VOCABULARY),
    "dim": 48,
    "hidden_dim": 80,
    "n_layers": 3,
    "n_heads": 4,
    "max_position_embeddings": NUM_POSITIONS,
    "initializer_range": 0.3,
}
FAMILIES = {
    "bert": (BertModel, BertConfig, SIZES),
    "roberta": (RobertaModel, RobertaConfig, SIZES),
    "xlm-roberta": (XLMRobertaModel, XLMRobertaConfig, SIZES),
    "distilbert": (DistilBertModel, DistilBertConfig, DISTILBERT_SIZES),
    "mpnet": (MPNetModel, MPNetConfig, SIZES),
}


def save_encoder(
    folder: Path,
    family: str = "bert",
    *,
    pooling: str = "mean_tokens",
    is_normalized: bool = True,
    has_modules: bool = True,
    **changes,
) -> Path:
    """Write a random model of a family; `changes` are of its config."""
    torch.manual_seed(1)
    network_class, config_class, sizes = FAMILIES[family]
    network = network_class(config_class(**sizes, **changes))
    for parameter in network.parameters():  # norms and biases too, which begin as 1 and 0
        parameter.data += 0.1 * torch.randn_like(parameter)
    network.save_pretrained(folder)
    save_tokenizer(folder)
    if has_modules:
        save_modules(folder, pooling=pooling, is_normalized=is_normalized)
    return folder


def save_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordPiece({word: index for index, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ids = {token: VOCABULARY.index(token) for token in ("[CLS]", "[SEP]")}
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=list(ids.items()))
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.enable_truncation(16)  # as many files say, of which servers take no notice
    tokenizer.save(str(folder / "tokenizer.json"))


def save_modules(folder: Path, *, pooling: str = "mean_tokens", is_normalized: bool = True) -> None:
    kinds = {"": "Transformer", "1_Pooling": "Pooling", **({"2_Normalize": "Normalize"} if is_normalized else {})}
    modules = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": MAX_SEQ_LENGTH, "do_lower_case": False})
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    values = {f"pooling_mode_{mode}": mode == pooling for mode in modes}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 48, **values}))


def reference_states(folder: Path, texts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """`[num_tokens, hidden]` of each text alone, by transformers."""
    network = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.inference_mode():
        return [network(input_ids=torch.tensor([list(ids)])).last_hidden_state[0] for ids in texts]


def token_ids(folder: Path, text: str) -> list[int]:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    return tokenizer.encode(text).ids
