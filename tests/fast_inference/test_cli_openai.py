"""The first command line of the project, kept working flag for flag."""

import pytest

from fast_inference.cli_openai import _parser, openai_settings
from fast_inference.settings import Settings


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def settings_of(*argv: str, **environment: str) -> Settings:
    return openai_settings(vars(_parser().parse_args(argv)), environment)


def test_defaults():
    settings = settings_of()
    assert (settings.host, settings.port, settings.frontends, settings.log_level) == ("0.0.0.0", 8000, 1, "info")
    assert settings.model == "smollm2-135m-instruct"
    assert settings.tokenizer is None


def test_every_flag_has_its_effect():
    settings = settings_of(
        *("--host", "127.0.0.1", "--port", "0", "--model-path", "org/model", "--tokenizer-path", "org/tokenizer"),
        *("--model-name", "mine", "--workers", "3", "--log-level", "DEBUG"),
    )
    assert (settings.host, settings.port, settings.frontends) == ("127.0.0.1", 0, 3)
    assert (settings.model, settings.tokenizer, settings.log_level) == ("org/model", "org/tokenizer", "debug")
    assert settings.served_model_name == ("mine", "org/model", "fast-inference-model")


def test_the_environment_counts_where_no_flag_is_given():
    settings = settings_of("--model-path", "flag", MODEL_PATH="env", TOKENIZER_PATH="tokenizer", MODEL_NAME="name")
    assert (settings.model, settings.tokenizer) == ("flag", "tokenizer")
    assert settings.served_model_name[0] == "name"


def test_new_variables_are_stronger_than_old_defaults(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_HOST", "::1")
    assert settings_of().host == "::1"


def test_the_documented_checkpoint_is_served_where_it_exists(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "final_model1.pt").write_bytes(b"")
    settings = settings_of()
    assert settings.model == "models/final_model1.pt"
    assert settings.tokenizer == "HuggingFaceTB/SmolLM-135M"


def test_a_tokenizer_beside_the_checkpoint_is_its_own(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{}")
    assert settings_of("--model-path", "x.pt").tokenizer is None


def test_a_model_of_the_new_variable_is_served(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_MODEL", "fake")
    assert settings_of().model == "fake"


def test_a_model_of_the_settings_file_is_served(monkeypatch, tmp_path):
    (tmp_path / "settings.yaml").write_text("model: org/model\n")
    monkeypatch.setenv("FAST_INFERENCE_CONFIG", "settings.yaml")
    assert settings_of().model == "org/model"
    assert settings_of(MODEL_PATH="other/model").model == "other/model"


def test_a_checkpoint_of_the_new_variable_has_the_old_default_tokenizer(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_MODEL", "x.pt")
    assert settings_of().tokenizer == "HuggingFaceTB/SmolLM-135M"
    monkeypatch.setenv("FAST_INFERENCE_TOKENIZER", "org/tokenizer")
    assert settings_of().tokenizer == "org/tokenizer"


def test_help_lists_the_seven_flags():
    usage = " ".join(_parser().format_usage().split())
    assert usage == (
        "usage: cli_openai.py [-h] [--host HOST] [--port PORT] [--model-path MODEL_PATH] "
        "[--tokenizer-path TOKENIZER_PATH] [--model-name MODEL_NAME] [--workers WORKERS] [--log-level LOG_LEVEL]"
    )
