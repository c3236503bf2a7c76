"""Which modules run, which way, and which are refused."""

import logging

import pytest
import torch
from torch import nn

from engine_core.model import module_loader
from engine_core.model.module_loader import ModuleSource, load_module_runner
from engine_core.model.paged_attention_config import PagedAttentionConfig
from ipc.config import CacheConfig, ModelConfig, SchedulerConfig
from ipc.errors import ConfigError
from tests.own_modules import PlainModel, byte_tokenizer, tiny_model


@pytest.fixture(scope="module")
def tokenizer_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    byte_tokenizer().save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture
def load(tokenizer_dir):
    def load(module, **settings):
        cache = CacheConfig(block_size=16, num_blocks=40)
        source = ModuleSource(module, tokenizer_dir, (3,))
        model = ModelConfig(cpu_kernels=False, threads=torch.get_num_threads(), **settings)
        return load_module_runner(source, model, cache, SchedulerConfig(), lambda stage: None)

    return load


class Embedding(nn.Module):
    """Says the same of a token wherever it stands."""

    def __init__(self, vocab_size=256):
        super().__init__()
        self.table = nn.Embedding(256, vocab_size)
        self.max_seq_len = 64

    def forward(self, input_ids):
        return self.table(input_ids)


class SeesLaterTokens(Embedding):
    def forward(self, input_ids):
        return self.table(input_ids) + self.table(input_ids).mean(1, keepdim=True)


class Paged(nn.Module):
    """With the sizes of the tiny model, and one thing changed."""

    def __init__(self, **changes):
        super().__init__()
        self.inner = tiny_model()
        self.changes = changes

    def paged_attention_config(self):
        config = self.inner.config
        sizes = {name: getattr(config, name) for name in PagedAttentionConfig.__slots__}
        return PagedAttentionConfig(**{**sizes, **self.changes})

    def forward(self, input_ids, positions, attention):
        return self.inner(input_ids, positions, attention)

    def compute_logits(self, hidden):
        return self.inner.compute_logits(hidden)


class MixesTheBatch(Paged):
    def forward(self, input_ids, positions, attention):
        hidden = super().forward(input_ids, positions, attention)
        return hidden + hidden.mean(0, keepdim=True)


def test_a_paged_module_is_described_by_its_config(load):
    info = load(tiny_model(max_positions=128)).info
    assert (info.model_id, info.vocab_size, info.max_model_len, info.embedding_size) == ("TinyModel", 256, 128, 64)
    assert (info.dtype, info.num_blocks, info.eos_token_ids) == ("float32", 40, (3,))


def test_a_module_that_shows_no_hidden_states_gives_no_embeddings(load):
    assert load(PlainModel(tiny_model())).info.embedding_size == 0


def test_recomputing_is_warned_of_once(load, caplog):
    with caplog.at_level(logging.WARNING):
        load(PlainModel(tiny_model()))
    assert [record.levelname for record in caplog.records if "each of its tokens costs" in record.message] == [
        "WARNING"
    ]


def test_the_longest_text_may_be_given(load):
    module = Embedding()
    del module.max_seq_len
    with pytest.raises(ConfigError, match="give max_seq_len"):
        load(module)
    assert load(module, max_model_len=32).info.max_model_len == 32


def test_the_plan_counts_the_logits_of_a_whole_text(load, monkeypatch):
    """Which a recomputed module makes for the one token that is sampled."""
    logits_bytes = (SchedulerConfig().max_num_batched_tokens + 64) * 256 * 4
    monkeypatch.setattr(module_loader, "available_bytes", lambda device: logits_bytes)
    with pytest.raises(ConfigError, match="0 bytes of memory"):
        load(Embedding())


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        (SeesLaterTokens(), "not causal"),
        (Embedding(vocab_size=100), "has 256 tokens and the model 100"),
        (nn.Linear(3, 3), "cannot run Linear"),
        (nn.Flatten(), "must give logits"),
        (MixesTheBatch(), "decode step differs"),
        (Paged(num_layers=1), "layer 1 is not below num_layers = 1"),
        (Paged(num_layers=3), "not every layer"),
        (Paged(num_kv_heads=2), "key and value must be"),
        (Paged(vocab_size=300), "logits must be"),
        (Paged(max_positions=600), "index out of range"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_would_be_computed_wrongly_is_refused(load, module, problem):
    settings = {} if hasattr(module, "max_seq_len") or isinstance(module, Paged) else {"max_model_len": 64}
    with pytest.raises(ConfigError, match=problem):
        load(module, **settings)
