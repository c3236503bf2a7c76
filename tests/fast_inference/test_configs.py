"""The shipped settings files are right."""

import re
from pathlib import Path

import pytest
import yaml

from fast_inference.settings import Settings, resolve_settings, settings_as_yaml
from ipc.errors import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = sorted(CONFIGS.glob("*.yaml"))
KEY_FILE = "/etc/fast-inference/api-keys"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_loads(path, tmp_path):
    (tmp_path / "keys").write_text("secret\n")
    copy = tmp_path / path.name
    copy.write_text(path.read_text().replace(KEY_FILE, str(tmp_path / "keys")))
    assert resolve_settings({"config": copy}).config == copy


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_key_says_what_it_does(path):
    keys = [line for line in path.read_text().splitlines() if re.match("[a-z]", line)]
    assert [line for line in keys if not re.search(r"\S # \S", line)] == []


def test_the_default_file_lists_every_setting_with_its_default():
    assert yaml.safe_load((CONFIGS / "default.yaml").read_text()) == yaml.safe_load(settings_as_yaml(Settings()))


def test_production_does_not_start_without_its_keys():
    with pytest.raises(ConfigError, match=KEY_FILE):
        resolve_settings({"config": CONFIGS / "production.yaml"})
