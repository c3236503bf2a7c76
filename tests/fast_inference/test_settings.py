"""Settings: which source wins, and what a wrong one looks like."""

from pathlib import Path

import pytest

from fast_inference.settings import (
    Settings,
    read_settings_file,
    refuse_unknown_variables,
    resolve_settings,
    served_names,
    settings_as_yaml,
    unused_setting_warnings,
)
from ipc.errors import ConfigError


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    return tmp_path / "settings.yaml"


def test_flags_win_over_environment_over_file_over_defaults(monkeypatch, yaml_file):
    yaml_file.write_text("max-num-seqs: 3\nport: 3\nfrontends: 3\n")
    monkeypatch.setenv("FAST_INFERENCE_MAX_NUM_SEQS", "2")
    monkeypatch.setenv("FAST_INFERENCE_PORT", "2")
    settings = resolve_settings({"config": str(yaml_file), "max_num_seqs": "1"})
    assert (settings.max_num_seqs, settings.port, settings.frontends, settings.block_size) == (1, 2, 3, 32)


def test_the_file_may_be_named_by_the_environment(monkeypatch, yaml_file):
    yaml_file.write_text("frontends: 3\n")
    monkeypatch.setenv("FAST_INFERENCE_CONFIG", str(yaml_file))
    assert resolve_settings({}).frontends == 3


def test_what_only_cores_look_at_is_told_where_they_run_elsewhere(tmp_path):
    keys = {"connect": "tcp://10.0.0.2:5555,tcp://10.0.0.3:5555", "curve_dir": str(tmp_path)}
    settings = resolve_settings({**keys, "dtype": "float32", "model": "fake", "api_key": "k"})
    assert settings.connect == ("tcp://10.0.0.2:5555", "tcp://10.0.0.3:5555")
    assert served_names(settings) == ()
    assert unused_setting_warnings(settings) == [
        f"--{name} has no effect with --connect: whoever starts the cores sets it" for name in ("model", "dtype")
    ]


@pytest.mark.parametrize("endpoint", ["tcp://-x:5555", "tcp://ü.x:5555", "tcp://10.0.0.2:99999", "tcp://*:5555"])
def test_an_endpoint_that_libzmq_cannot_reach_is_refused(tmp_path, endpoint):
    with pytest.raises(ConfigError, match="--connect"):
        resolve_settings({"connect": endpoint, "curve_dir": str(tmp_path)})


def test_what_only_frontends_look_at_is_told_where_there_are_none(tmp_path):
    core = {"core_endpoint": "tcp://*:5555", "curve_dir": str(tmp_path), "frontends": "0", "model": "fake"}
    settings = resolve_settings({**core, "api_key": "k", "served_model_name": "m"})
    assert unused_setting_warnings(settings) == ["--api-key has no effect with --frontends 0"]


@pytest.mark.parametrize("cpus", ["inf", "nan", "0", "0.00001"])
def test_cpus_that_ray_cannot_count_are_refused(cpus):
    with pytest.raises(ConfigError, match="--ray-cpus-per-core: must be"):
        resolve_settings({"executor": "ray", "ray_cpus_per_core": cpus})


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_MODEL", "")
    assert resolve_settings({}).model == "smollm2-135m-instruct"


@pytest.mark.parametrize("key", ["max-num-seqs", "max_num_seqs"])
def test_yaml_keys_in_both_spellings(yaml_file, key):
    yaml_file.write_text(f"{key}: 5\n")
    assert resolve_settings({"config": yaml_file}).max_num_seqs == 5


def test_a_file_has_no_numbers_to_the_base_60(yaml_file):
    yaml_file.write_text("executor: ray\ncores: 1:3\n")
    assert resolve_settings({"config": yaml_file}).cores == "1:3"  # and not 63 cores
    yaml_file.write_text("max-num-seqs: 1:30\n")
    with pytest.raises(ConfigError, match="max-num-seqs: must be a valid integer, not '1:30'"):
        resolve_settings({"config": yaml_file})
    yaml_file.write_text("drain-timeout: 0.5\nport: 0x1F90\n")
    assert read_settings_file(yaml_file) == {"drain_timeout": 0.5, "port": 8080}


@pytest.mark.parametrize("second", ["max-num-seqs", "max_num_seqs"])
def test_a_key_that_is_there_twice_is_refused(yaml_file, second):
    yaml_file.write_text(f"max-num-seqs: 5\n{second}: 6\n")
    with pytest.raises(ConfigError, match=f"settings.yaml.*: {second} is there twice"):
        read_settings_file(yaml_file)


def test_an_unknown_key_names_the_nearest(yaml_file):
    yaml_file.write_text("max-num-sequence: 5\n")
    with pytest.raises(ConfigError, match=r"unknown setting max-num-sequence, did you mean max-num-seqs\?"):
        resolve_settings({"config": yaml_file})


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n", "just words", "\x00"])
def test_a_file_that_is_no_map_is_one_line(yaml_file, text):
    yaml_file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings_file(yaml_file)
    assert str(yaml_file) in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml: No such file"):
        resolve_settings({"config": tmp_path / "absent.yaml"})


def test_a_wrong_value_is_named_by_its_source(monkeypatch, yaml_file):
    yaml_file.write_text("frontends: -1\n")
    monkeypatch.setenv("FAST_INFERENCE_BLOCK_SIZE", "17")
    with pytest.raises(ConfigError) as caught:
        resolve_settings({"config": yaml_file, "port": "high"})
    message = caught.value.message
    assert "--port: " in message
    assert "FAST_INFERENCE_BLOCK_SIZE: " in message
    assert f"{yaml_file}: frontends: " in message
    assert "\n" not in message


@pytest.mark.parametrize("value", ["a,b", "a, b", '["a", "b"]'])
def test_names_from_the_environment(monkeypatch, value):
    monkeypatch.setenv("FAST_INFERENCE_SERVED_MODEL_NAME", value)
    assert resolve_settings({}).served_model_name == ("a", "b")


def test_a_list_that_cannot_be_read_names_its_variable_and_no_secret(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_API_KEY", '["secret')
    with pytest.raises(ConfigError) as caught:
        resolve_settings({})
    assert caught.value.message == "FAST_INFERENCE_API_KEY: begins with [ and is no list in JSON"
    assert caught.value.__cause__ is None


def test_one_name_in_yaml_needs_no_list(yaml_file):
    yaml_file.write_text("served-model-name: mine\n")
    assert resolve_settings({"config": yaml_file}).served_model_name == ("mine",)


def test_a_variable_that_is_no_setting_is_refused_with_the_nearest(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_MAX_NUM_SEQ", "1")
    with pytest.raises(ConfigError) as caught:
        resolve_settings({})
    assert caught.value.message == (
        "environment variable FAST_INFERENCE_MAX_NUM_SEQ is no setting, did you mean FAST_INFERENCE_MAX_NUM_SEQS?"
    )


def test_variables_of_kubernetes_for_a_service_of_our_name_are_left_alone():
    names = ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT_8000_TCP", "PORT_8000_TCP_ADDR")
    refuse_unknown_variables({f"FAST_INFERENCE_{name}": "10.0.0.1" for name in names} | {"PATH": "/bin"})


def test_the_port_of_kubernetes_is_named_for_what_it_is(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_PORT", "tcp://10.0.0.1:8000")
    with pytest.raises(ConfigError, match=r"FAST_INFERENCE_PORT: set by Kubernetes .*enableServiceLinks"):
        resolve_settings({})


def test_printed_settings_can_be_read_again(yaml_file):
    settings = resolve_settings({"served_model_name": ["x"], "num_blocks": "9", "run_dir": "/r"})
    yaml_file.write_text(settings_as_yaml(settings))
    again = resolve_settings({"config": yaml_file})
    assert again.model_copy(update={"config": None}) == settings


def test_a_hub_model_is_served_under_its_id_and_the_alias():
    assert served_names(Settings(model="org/name")) == ("org/name", "fast-inference-model")


def test_a_folder_is_served_under_its_last_component(tmp_path):
    (tmp_path / "my-model").mkdir()
    assert served_names(Settings(model=f"{tmp_path}/my-model/"))[0] == "my-model"


def test_given_names_replace_the_usual_ones():
    assert served_names(Settings(model="fake", served_model_name=("a", "b"))) == ("a", "b")


def test_an_adapter_must_not_have_the_name_of_the_model():
    settings = Settings(model="fake", served_model_name=("a", "b"), lora=("b=folder",))
    with pytest.raises(ConfigError, match="--lora: the model itself is served under the name b"):
        served_names(settings)


def test_adapters_are_names_and_folders(monkeypatch):
    monkeypatch.setenv("FAST_INFERENCE_LORA", "sql=adapters/sql,team/chat=/x=y")
    assert resolve_settings({}).adapters == {"sql": Path("adapters/sql"), "team/chat": Path("/x=y")}


@pytest.mark.parametrize("lora", [("sql",), ("=folder",), ("sql=",), ("a b=folder",), ("sql=a", "sql=b")])
def test_adapters_without_a_name_a_folder_or_a_difference_are_refused(lora):
    with pytest.raises(ConfigError, match=r"^--lora: "):
        Settings(lora=lora)


# --- rules between settings ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ({"max_num_batched_tokens": "16"}, ["--max-num-batched-tokens (16)", "--max-num-seqs (64)"]),
        ({"frontend_ports": "true", "frontends": "3", "port": "65534"}, ["--frontend-ports", "3 ports from 65534"]),
        ({"num_blocks": "9", "kv_cache_memory_bytes": "9"}, ["--num-blocks", "--kv-cache-memory-bytes"]),
        (
            {"cores": "3", "core_endpoint": "tcp://127.0.0.1:65534", "curve_dir": "keys"},
            ["--core-endpoint", "3 ports from 65534"],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_one_line(flags, named):
    with pytest.raises(ConfigError) as caught:
        resolve_settings(flags)
    assert all(name in caught.value.message for name in named)
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("cores", ["0", "65", "-1", "two", "3:1", "1:65", "1:", "1.5", "true"])
def test_what_is_no_number_of_cores_is_one_line(cores):
    with pytest.raises(ConfigError, match=r"^--cores: must be a number from 1 to 64, or such a range like 1:3, not "):
        resolve_settings({"cores": cores})


def test_each_core_has_the_port_after_that_of_the_one_before():
    settings = resolve_settings({"cores": "2", "core_endpoint": "tcp://[::1]:5555", "curve_dir": "keys"})
    assert [settings.endpoint_of(index) for index in range(2)] == ["tcp://[::1]:5555", "tcp://[::1]:5556"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"model": "m", "fake_step_ms": "5"}, "--fake-step-ms has an effect only with --model fake"),
        ({"model": "fake", "threads": "2"}, "--threads has no effect on the fake model"),
        ({"model": "fake", "kv_cache_memory_bytes": "2"}, "--kv-cache-memory-bytes has no effect on the fake model"),
    ],
)
def test_a_setting_without_effect_is_pointed_out(flags, line):
    assert unused_setting_warnings(resolve_settings(flags)) == [line]


@pytest.mark.parametrize("flags", [{}, {"model": "fake", "fake_step_ms": "5"}, {"threads": "2", "dtype": "float32"}])
def test_settings_with_an_effect_are_not_pointed_out(flags):
    assert unused_setting_warnings(resolve_settings(flags)) == []


@pytest.mark.parametrize("model", ["a" * 5000, "a/" * 5000])
def test_a_name_that_no_file_can_have_is_one_short_line(model):
    with pytest.raises(ConfigError, match="File name too long") as caught:
        served_names(Settings(model=model))
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("field", ["host", "served_model_name"])
def test_an_empty_host_is_not_all_of_them_and_an_empty_name_none(field):
    values = {"host": "", "served_model_name": ("",)}
    with pytest.raises(ConfigError, match=rf"^--{field.replace('_', '-')}: must have at least 1 character, not ''$"):
        resolve_settings({field: values[field]})


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"cores": "1:3"}, "on one machine the number is fixed"),
        ({"cores": "3:1", "executor": "ray"}, "must be a number from 1 to 64"),
        ({"executor": "ray", "core_endpoint": "tcp://10.0.0.1:1", "curve_dir": "keys"}, "an address of its own"),
        ({"executor": "ray", "ray_fleet": "two words"}, "must be letters, digits"),
    ],
)
def test_cores_that_cannot_be_had_are_refused(flags, message):
    with pytest.raises(ConfigError, match=message):
        resolve_settings({"model": "fake", **flags})


def test_a_range_of_cores_is_for_ray():
    assert resolve_settings({"model": "fake", "executor": "ray", "cores": "1:3"}).core_range == (1, 3)
