import asyncio
import base64
import os

import pytest

from ipc import tokenizer_transfer
from ipc.errors import ConfigError
from ipc.tokenizer_files import PIECE_BYTES, TokenizerFiles, content_fingerprint
from ipc.tokenizer_transfer import fetch_tokenizer, has_tokenizer


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fast-inference" / "tokenizers"


@pytest.fixture
def folder(tmp_path):
    """A tokenizer of more than two pieces."""
    folder = tmp_path / "far"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(os.urandom(2 * PIECE_BYTES + 3))
    (folder / "chat_template.jinja").write_bytes("é{{ messages }}".encode())
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


class Core:
    """Answers as a core does, or with what a test puts over it."""

    def __init__(self, folder, **changed):
        self.files = TokenizerFiles(folder)
        self.changed = changed
        self.num_calls = 0

    async def call(self, arguments):
        self.num_calls += 1
        return self.files.answer(arguments.get("file", ""), arguments.get("offset", 0)) | self.changed


def fetch(core, fingerprint):
    return asyncio.run(fetch_tokenizer(core.call, fingerprint))


def test_files_come_whole_and_only_those_of_the_tokenizer(cache, folder):
    core = Core(folder)
    fetched = fetch(core, content_fingerprint(folder))
    assert fetched == cache / content_fingerprint(folder)
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == {
        name: (folder / name).read_bytes() for name in ("tokenizer.json", "chat_template.jinja")
    }
    assert os.listdir(cache) == [fetched.name]


def test_what_is_there_is_not_got_again(cache, folder):
    core = Core(folder)
    fetch(core, content_fingerprint(folder))
    num_calls = core.num_calls
    fetch(core, content_fingerprint(folder))
    assert core.num_calls == num_calls == 1 + 3 + 1


def test_what_is_there_and_damaged_is_got_again(cache, folder):
    fetched = fetch(Core(folder), content_fingerprint(folder))
    (fetched / "tokenizer.json").write_bytes(b"{}")
    assert has_tokenizer(fetch(Core(folder), content_fingerprint(folder)), content_fingerprint(folder))


def test_two_processes_may_get_it_at_once(cache, folder):
    async def fetch_twice():
        fingerprint = content_fingerprint(folder)
        return await asyncio.gather(*(fetch_tokenizer(Core(folder).call, fingerprint) for _ in range(2)))

    assert len(set(asyncio.run(fetch_twice()))) == 1
    assert len(os.listdir(cache)) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": base64.b64encode(b"x" * PIECE_BYTES).decode()}, "not the one that it has loaded"),
        ({"data": base64.b64encode(b"x" * 100).decode()}, "ends after 0 of"),
        ({"data": ""}, "ends after 0 of"),
        ({"data": "no base64!"}, "ends after 0 of"),
        ({"data": 7}, "ends after 0 of"),
        ({"tokenizer.json": 10**12}, f"has {10**12 + 16} bytes"),
        ({"tokenizer.json": -1}, "has 15 bytes"),
        ({"tokenizer.json": "many"}, "not the one"),
    ],
)
def test_what_is_not_what_the_core_has_promised_is_refused_and_leaves_nothing(cache, folder, changed, message):
    with pytest.raises(ConfigError, match=message):
        fetch(Core(folder, **changed), content_fingerprint(folder))
    assert not cache.exists()


@pytest.mark.parametrize("fingerprint", ["", "../../etc", "a" * 31, "A" * 32])
def test_a_fingerprint_is_no_path(cache, folder, fingerprint):
    with pytest.raises(ConfigError, match="fingerprint"):
        fetch(Core(folder), fingerprint)


def test_a_cache_that_cannot_be_written_is_one_line(cache, folder):
    cache.parent.mkdir(parents=True)
    cache.write_text("no folder")
    with pytest.raises(ConfigError, match="cannot write the tokenizer"):
        fetch(Core(folder), content_fingerprint(folder))


def test_names_that_a_core_adds_are_not_asked_for(cache, folder, monkeypatch):
    core = Core(folder, **{"../evil": 5, "model.safetensors": 7})
    assert sorted(os.listdir(fetch(core, content_fingerprint(folder)))) == ["chat_template.jinja", "tokenizer.json"]


def test_the_size_is_bounded(cache, folder, monkeypatch):
    monkeypatch.setattr(tokenizer_transfer, "MAX_TOKENIZER_BYTES", 1000)
    with pytest.raises(ConfigError, match="bytes"):
        fetch(Core(folder), content_fingerprint(folder))
