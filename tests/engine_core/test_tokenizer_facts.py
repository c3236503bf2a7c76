"""What the core reads of a tokenizer."""

import json

import pytest
from tokenizers import Tokenizer, models

from engine_core.tokenizer_facts import check_vocabulary, eos_token_id
from ipc.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    """Ids 0, 1 and 7."""
    Tokenizer(models.WordLevel({"a": 0, "b": 1, "<end>": 7}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "token_id"),
    [
        ({"eos_token": "<end>"}, 7),
        ({"eos_token": {"content": "b"}}, 1),
        ({"eos_token": "unknown"}, None),
        ({"eos_token": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_the_eos_token_is_that_of_the_tokenizer_config(folder, config, token_id):
    if config is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert eos_token_id(folder) == token_id


def test_the_largest_id_must_be_one_of_the_model(folder):
    check_vocabulary(folder, 8)
    with pytest.raises(ConfigError, match="has 8 tokens and the model 7"):
        check_vocabulary(folder, 7)


def test_a_damaged_tokenizer_is_one_line(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{\n")
    with pytest.raises(ConfigError, match=r"cannot read .*tokenizer\.json") as caught:
        check_vocabulary(tmp_path, 7)
    assert "\n" not in caught.value.message
