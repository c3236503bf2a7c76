"""Files with keys, the warning where there are none, and that no setting shows a key."""

from pathlib import Path

import pytest

from fast_inference.api_keys import exposure_warning
from fast_inference.child import child_environment
from fast_inference.settings import resolve_settings, settings_as_yaml
from ipc.api_keys import digests_of
from ipc.errors import ConfigError


def test_a_file_adds_to_the_keys_of_flags(tmp_path: Path):
    file = tmp_path / "keys"
    file.write_text("# ours\nfirst\n\n  second \n")
    settings = resolve_settings({"api_key": ["third"], "api_key_file": str(file)})
    assert settings.api_key == digests_of(["third", "first", "second"])


@pytest.mark.parametrize("content", [None, "", "# only a comment\n", "my secret\n", "é\n"])
def test_a_file_without_keys_starts_no_open_server(tmp_path: Path, content: str | None):
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"^--api-key-file: .*keys") as caught:
        resolve_settings({"api_key_file": str(file)})
    assert "secret" not in caught.value.message


def test_several_keys_come_from_one_variable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAST_INFERENCE_API_KEY", "one,two")
    assert resolve_settings({}).api_key == digests_of(["one", "two"])


def test_printed_settings_hold_digests_and_mean_the_same(tmp_path: Path):
    settings = resolve_settings({"api_key": ["my-secret"], "admin_api_key": ["my-other-secret"]})
    text = settings_as_yaml(settings)
    assert "my-" not in text
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    assert resolve_settings({"config": file}).model_copy(update={"config": None}) == settings


@pytest.mark.parametrize("field", ["api_key", "admin_api_key"])
def test_an_error_about_a_key_does_not_repeat_it(field: str):
    with pytest.raises(ConfigError) as caught:
        resolve_settings({field: ["my secret"]})
    assert "secret" not in caught.value.message
    assert caught.value.message.startswith("--" + field.replace("_", "-"))
    assert caught.value.__cause__ is None


def test_children_do_not_inherit_keys(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAST_INFERENCE_API_KEY", "secret")
    monkeypatch.setenv("FAST_INFERENCE_ADMIN_API_KEY", "secret")
    assert "secret" not in child_environment().values()


@pytest.mark.parametrize(
    ("flags", "is_warned"),
    [
        ({"host": "0.0.0.0"}, True),
        ({"host": "0.0.0.0", "admin_api_key": ["k"]}, True),
        ({"host": "0.0.0.0", "api_key": ["k"]}, False),
        ({"host": "127.0.0.1"}, False),
        ({"host": "127.8.9.10"}, False),
        ({"host": "::1"}, False),
        ({"host": "localhost"}, False),
        ({"host": "::"}, True),
        ({"host": "127.example.com"}, True),
        ({"host": "localhost.example.com"}, True),
    ],
)
def test_an_open_server_is_warned_of(flags: dict[str, object], is_warned: bool):
    settings = resolve_settings(flags)
    assert (exposure_warning(settings, settings) is not None) == is_warned


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"allowed_origins": ["*"], "allow_credentials": True}, "every web page"),
        ({"allow_credentials": True}, "needs --allowed-origins"),
        ({"allowed_origins": ["https://a.example/path"]}, "is no origin"),
        ({"allowed_hosts": ["https://a.example"]}, "is no name"),
        ({"allowed_hosts": ["a.example:8000"]}, "without a port"),
        ({"allowed_origins": ["null"]}, "is no origin"),
        ({"isolate_cache_by_key": True}, "needs --api-key"),
    ],
)
def test_access_that_makes_no_sense_is_refused(flags: dict[str, object], named: str):
    with pytest.raises(ConfigError, match=named):
        resolve_settings(flags)
