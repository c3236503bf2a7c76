"""A small byte-level BPE tokenizer made on the spot, and a model around it: no test needs files from elsewhere."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from frontend.chat_template import ChatTemplate
from frontend.state import ServedModel
from frontend.tokenizer import FrontendTokenizer
from tests.factories import make_welcome

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "hello world, hello there",
    "naïve café 日本語 日本 👩‍👩‍👧 👍🏽",
] * 3


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the core hands it to frontends; ids 0 and 1 are <|im_start|> and <|im_end|>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> FrontendTokenizer:
    return FrontendTokenizer.load(tokenizer_dir)


@pytest.fixture(scope="session")
def model(tokenizer: FrontendTokenizer, tokenizer_dir: Path) -> ServedModel:
    """A model with a context of 64 tokens."""
    welcome = make_welcome(
        epoch=1,
        model_id="tiny",
        model_fingerprint="0123456789abcdef0123",
        tokenizer_dir=str(tokenizer_dir),
        vocab_size=tokenizer.vocab_size,
        max_model_len=64,
        max_num_seqs=8,
        embedding_size=4,
        max_queued_requests=16,
        max_queued_tokens=1024,
    )
    return ServedModel(welcome, tokenizer, ("tiny", "fast-inference-model"))


@pytest.fixture
def model_with_template(model: ServedModel) -> Callable[[str], ServedModel]:
    """Makes the same model with another chat template."""

    def make(source: str) -> ServedModel:
        template = ChatTemplate(source, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"})
        return replace(model, tokenizer=FrontendTokenizer(model.tokenizer.backend, template))

    return make
