"""Loading a tokenizer folder, and bounding the cost of a text."""

import asyncio
import json
import shutil
import time
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from frontend.render_options import RenderOptions
from frontend.tokenizer import INLINE_CHARS, FrontendTokenizer
from ipc.errors import ConfigError, ContextLengthError


@pytest.fixture
def folder(tokenizer_dir: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tokenizer_dir, tmp_path / "copy"))


def encode(tokenizer: FrontendTokenizer, text: str, max_tokens: int | None = None) -> list[int]:
    return asyncio.run(tokenizer.encode(text, add_special_tokens=True, max_tokens=max_tokens, param="prompt"))


def test_ids_decode_to_the_text(tokenizer: FrontendTokenizer):
    assert tokenizer.decode(encode(tokenizer, "naïve 👩‍👧")) == "naïve 👩‍👧"


def test_special_tokens_in_a_text_are_one_token(tokenizer: FrontendTokenizer):
    assert encode(tokenizer, "<|im_start|>") == [0]


def test_long_texts_give_the_same_ids(tokenizer: FrontendTokenizer):
    text = "hello world " * INLINE_CHARS
    assert encode(tokenizer, text) == tokenizer.backend.encode(text).ids


def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(tokenizer: FrontendTokenizer):
    with pytest.raises(ContextLengthError) as caught:
        encode(tokenizer, "x" * 1_000_000, max_tokens=100)
    assert caught.value.param == "prompt"
    assert "100" in caught.value.message


def test_the_early_refusal_never_hits_what_would_fit(tokenizer: FrontendTokenizer):
    assert encode(tokenizer, "<|im_start|>" * 20, max_tokens=20) == [0] * 20


def test_a_vocabulary_of_words_sets_no_limit_to_the_characters_of_a_token(tmp_path: Path):
    words = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.save(str(tmp_path / "tokenizer.json"))
    assert encode(FrontendTokenizer.load(tmp_path), "x" * 50_000 + " " * 50_000 + "a", max_tokens=2) == [0, 1]


@pytest.mark.parametrize(("template", "expected"), [("$A", (0, 0)), ("b $A", (1, 0)), ("b b $A b", (2, 1))])
def test_the_special_tokens_around_a_text_are_counted(tmp_path: Path, template: str, expected: tuple[int, int]):
    words = Tokenizer(models.WordLevel({"?": 0, "b": 1}, unk_token="?"))
    words.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("b", 1)])
    words.save(str(tmp_path / "tokenizer.json"))
    assert FrontendTokenizer.load(tmp_path).num_tokens_around == expected


def test_the_template_file_wins_over_the_config(folder: Path):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "from config"}))
    rendered = FrontendTokenizer.load(folder).chat_template.render([], RenderOptions())
    assert rendered == "<|im_start|>assistant\n"
    (folder / "chat_template.jinja").unlink()
    rendered = FrontendTokenizer.load(folder).chat_template.render([], RenderOptions())
    assert rendered == "from config"


def test_the_operators_template_wins_over_all(folder: Path, tmp_path: Path):
    own = tmp_path / "own.jinja"
    own.write_text("own")
    assert FrontendTokenizer.load(folder, own).chat_template.render([], RenderOptions()) == "own"


def test_of_several_named_templates_the_default_is_taken(folder: Path):
    (folder / "chat_template.jinja").unlink()
    templates = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    assert FrontendTokenizer.load(folder).chat_template.render([], RenderOptions()) == "plain"


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_malformed_file_is_a_configuration_error(folder: Path, name: str):
    (folder / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        FrontendTokenizer.load(folder)


def test_a_missing_template_file_is_a_configuration_error(folder: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match="chat template"):
        FrontendTokenizer.load(folder, tmp_path / "none.jinja")


def test_long_texts_and_ids_let_others_go_on(tokenizer: FrontendTokenizer):
    text = "the quick brown fox 日本語 " * 20_000

    async def run() -> tuple[list[int], str, float]:
        longest, last = 0.0, time.process_time()
        encoding = asyncio.create_task(tokenizer.encode(text, add_special_tokens=False))
        decoding: asyncio.Task[str] | None = None
        while decoding is None or not decoding.done():
            if decoding is None and encoding.done():
                decoding = asyncio.create_task(asyncio.to_thread(tokenizer.decode_long, encoding.result()))
            await asyncio.sleep(0.001)
            now = time.process_time()
            longest, last = max(longest, now - last), now
        return encoding.result(), decoding.result(), longest

    ids, decoded, longest_s = asyncio.run(run())
    began_at = time.process_time()
    assert (ids, decoded) == (tokenizer.backend.encode(text).ids, text)
    assert longest_s < (time.process_time() - began_at) / 2
