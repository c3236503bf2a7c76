import pytest

from fast_inference.config_file import write_config
from fast_inference.ray_executor.fleet_spec import FleetSpec, paths_anywhere
from fast_inference.settings import resolve_settings
from ipc.errors import ConfigError


@pytest.fixture
def read(tmp_path):
    """The spec of a launcher with these settings."""

    def read(**flags):
        settings = resolve_settings({"model": "fake", "executor": "ray", "served_model_name": "my model,x", **flags})
        write_config(settings, tmp_path / "config.json")
        return FleetSpec.read(tmp_path / "config.json")

    return read


def test_launchers_may_differ_in_what_is_their_own(read):
    mine = read(port="8001", frontends="3", log_level="debug", ray_fleet="one")
    assert mine.flags_that_differ(read(ray_fleet="one", api_key="secret")) == []


def test_launchers_must_not_differ_in_what_cores_are(read):
    assert read().flags_that_differ(read(max_num_seqs="8", cores="1:3")) == ["--cores", "--max-num-seqs"]


def test_the_name_is_that_of_the_model_as_far_as_a_name_can_have_it(read):
    assert read().name == "my-model"
    assert read(ray_fleet="own").name == "own"


def test_a_path_is_the_same_on_each_node(read, tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read(model="model").settings["model"] == str(tmp_path / "model")


def test_paths_of_adapters_and_tokenizers_are_too_and_names_stay_names(tmp_path, monkeypatch):
    for name in ("tokens", "sql", "fake"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert paths_anywhere({"model": "fake", "tokenizer": "tokens", "lora": ("a=sql", "b=gone")}) == {
        "model": "fake",
        "tokenizer": str(tmp_path / "tokens"),
        "lora": [f"a={tmp_path / 'sql'}", "b=gone"],
    }


def test_it_holds_no_secret(read):
    assert "api_key" not in str(read(api_key="secret"))


def test_names_of_actors_lead_back_to_the_core(read):
    spec = read(ray_fleet="one")
    assert spec.core_of(spec.core_actor_name("3")) == "3"
    assert read(ray_fleet="two").core_of(spec.core_actor_name("3")) is None


def test_a_configuration_that_is_gone(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        FleetSpec.read(tmp_path / "config.json")
