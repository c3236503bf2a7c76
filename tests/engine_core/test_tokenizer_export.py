"""A folder with tokenizer.json for every kind of tokenizer folder."""

import json

import pytest

from engine_core.tokenizer_export import export_tokenizer
from ipc.errors import ConfigError
from ipc.tokenizer_files import cache_root
from tests.sentence_encoders import save_modules


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def slow_dir(tmp_path):
    """A GPT-2 tokenizer as vocab.json and merges.txt, without tokenizer.json."""
    folder = tmp_path / "slow"
    folder.mkdir()
    vocabulary = {"<|endoftext|>": 0, "a": 1, "b": 2, "ab": 3}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\na b\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    return folder


def test_a_folder_with_tokenizer_json_is_used_as_it_is(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert export_tokenizer(tmp_path, None) == tmp_path


def test_another_folder_takes_precedence(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text("{}")
    assert export_tokenizer(tmp_path, str(other)) == other


def test_another_format_is_converted_once(slow_dir):
    from tokenizers import Tokenizer

    target = export_tokenizer(slow_dir, None)
    assert target.is_relative_to(cache_root())
    written = (target / "tokenizer.json").stat().st_mtime_ns
    assert Tokenizer.from_file(str(target / "tokenizer.json")).encode("abb").ids == [3, 2]
    assert export_tokenizer(slow_dir, None) == target
    assert (target / "tokenizer.json").stat().st_mtime_ns == written
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_a_changed_source_is_converted_again(slow_dir):
    first = export_tokenizer(slow_dir, None)
    (slow_dir / "merges.txt").write_text("#version: 0.2\n")
    assert export_tokenizer(slow_dir, None) != first


@pytest.mark.parametrize("name", ["/nonexistent", "nonsense", "./a/b", "no-such-organization/no-such-tokenizer"])
def test_a_missing_tokenizer_is_refused_in_one_line(tmp_path, name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="tokenizer") as caught:
        export_tokenizer(tmp_path, name)
    assert "\n" not in str(caught.value)


def test_a_hub_tokenizer_that_cannot_be_had_names_the_flags(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"^tokenizer HuggingFaceTB/SmolLM-135M: .*--tokenizer .*--tokenizer-path"):
        export_tokenizer(tmp_path, "HuggingFaceTB/SmolLM-135M")


def test_a_folder_without_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no tokenizer in .*--tokenizer.*--tokenizer-path"):
        export_tokenizer(tmp_path, None)


@pytest.mark.parametrize("normalizer", [None, {"type": "NFKC"}])
def test_a_model_of_small_letters_gets_a_tokenizer_that_writes_them(tmp_path, normalizer):
    from tokenizers import Tokenizer, models

    Tokenizer(models.WordLevel({"?": 0, "ab": 1}, unk_token="?")).save(str(tmp_path / "tokenizer.json"))
    values = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**values, "normalizer": normalizer}))
    save_modules(tmp_path)
    assert export_tokenizer(tmp_path, None) == tmp_path
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True}))
    target = export_tokenizer(tmp_path, None)
    assert target.is_relative_to(cache_root())
    assert Tokenizer.from_file(str(target / "tokenizer.json")).encode("AB").ids == [1]
    assert export_tokenizer(tmp_path, None) == target
