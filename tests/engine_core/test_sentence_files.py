"""What the files of sentence-transformers say, and which of them are refused."""

import json

import pytest

from engine_core.sentence_files import SentenceFiles, read_sentence_files
from ipc.errors import ConfigError
from tests.sentence_encoders import MAX_SEQ_LENGTH, save_modules

PREFIX = "sentence_transformers.models."


def write_modules(folder, *modules):
    (folder / "modules.json").write_text(json.dumps([{"path": path, "type": kind} for path, kind in modules]))


@pytest.mark.parametrize(("mode", "kind"), [("mean_tokens", "mean"), ("cls_token", "cls"), ("lasttoken", "last")])
def test_the_folder_decides_unless_the_user_does(tmp_path, mode, kind):
    save_modules(tmp_path, pooling=mode, is_normalized=False)
    files = read_sentence_files(tmp_path)
    assert (files.resolve_pooling("auto"), files.resolve_pooling("last")) == (kind, "last")
    assert (files.is_normalized, files.max_seq_length, files.is_lowercased) == (False, MAX_SEQ_LENGTH, False)


def test_a_folder_that_says_nothing_means_the_normalized_mean(tmp_path):
    files = read_sentence_files(tmp_path)
    assert files == SentenceFiles()
    assert (files.resolve_pooling("auto"), files.is_normalized) == ("mean", True)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"pooling_mode_max_tokens": True}, "pooling_mode_max_tokens"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, "mean_tokens and pooling_mode_cls_token"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
    ],
)
def test_an_unknown_pooling_is_refused_unless_the_user_chooses_one(tmp_path, values, names):
    save_modules(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(values))
    files = read_sentence_files(tmp_path)
    assert files.resolve_pooling("mean") == "mean"
    with pytest.raises(ConfigError, match=f"{names}.*--pooling"):
        files.resolve_pooling("auto")


@pytest.mark.parametrize(("values", "kind"), [({"pooling_mode": "cls"}, "cls"), ({}, "mean")])
def test_newer_files_name_the_pooling_or_mean_the_mean(tmp_path, values, kind):
    save_modules(tmp_path)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(values))
    assert read_sentence_files(tmp_path).resolve_pooling("auto") == kind


@pytest.mark.parametrize(("length", "expected"), [(40, 40), (10**30, None), (None, None), ("40", None)])
def test_the_longest_text_is_the_tokenizers_where_the_module_does_not_say(tmp_path, length, expected):
    save_modules(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text("{}")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": length}))
    assert read_sentence_files(tmp_path).max_seq_length == expected


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([("", "Transformer"), ("2_Dense", "Dense")], "through 'Dense' are not served"),
        ([("", "Transformer"), ("1", "Pooling"), ("2", "Pooling")], "through 'Pooling'"),
        ([("0_Transformer", "Transformer")], "own folder"),
        ([("1_Pooling", "Pooling")], "own folder"),
        ([("", "Transformer"), ("../../x", "Pooling")], "outside of the model"),
        ([("", "Transformer"), ("1_Pooling", "Pooling")], "cannot read"),
    ],
)
def test_modules_that_are_not_known_are_refused(tmp_path, modules, message):
    write_modules(tmp_path, *((path, PREFIX + kind) for path, kind in modules))
    with pytest.raises(ConfigError, match=message):
        read_sentence_files(tmp_path)


def test_modules_of_other_packages_are_refused(tmp_path):
    write_modules(tmp_path, ("", "custom_st.Transformer"))
    with pytest.raises(ConfigError, match="'Transformer' are not served"):
        read_sentence_files(tmp_path)


def test_a_prompt_that_belongs_before_each_text_is_named(tmp_path):
    save_modules(tmp_path)
    assert read_sentence_files(tmp_path).default_prompt == ""
    (tmp_path / "config_sentence_transformers.json").write_text('{"default_prompt_name": "query"}')
    assert read_sentence_files(tmp_path).default_prompt == "query"


@pytest.mark.parametrize("content", ["{}", "[1]", '[{"type": 3}]', "[[["])
def test_a_malformed_list_of_modules_is_refused(tmp_path, content):
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(ConfigError, match=r"modules\.json"):
        read_sentence_files(tmp_path)
