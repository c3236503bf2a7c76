"""The shipped settings files are right."""

from pathlib import Path

import pytest
import yaml

from fast_inference.settings import Settings, resolve_settings, settings_as_yaml

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_loads(path):
    assert resolve_settings({"config": path}).config == path


def test_the_default_file_lists_every_setting_with_its_default():
    assert yaml.safe_load((CONFIGS / "default.yaml").read_text()) == yaml.safe_load(settings_as_yaml(Settings()))
