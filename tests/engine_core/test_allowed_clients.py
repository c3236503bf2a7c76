import logging

import pytest
from zmq.utils import z85

from engine_core import allowed_clients
from engine_core.allowed_clients import AllowedClients
from ipc.curve import CurveDir


@pytest.fixture
def folder(tmp_path):
    made = CurveDir(tmp_path / "keys")
    made.make("client")
    return made


@pytest.fixture
def allowed(folder):
    """It has looked just now."""
    allowed = AllowedClients(folder)
    allowed.name_of(bytes(32))
    return allowed


def raw_key(folder, name):
    return bytes(z85.decode(folder.client_keys(name).public))


def test_who_is_named_by_a_file_is_allowed_and_nobody_else(folder, allowed):
    assert allowed.name_of(raw_key(folder, "client")) == "client"
    assert allowed.name_of(bytes(32)) is None


def test_who_is_added_is_allowed_at_once(folder, allowed):
    folder.make("other")
    assert allowed.name_of(raw_key(folder, "other")) == "other"
    assert allowed.name_of(raw_key(folder, "client")) == "client"


def test_who_is_removed_is_allowed_no_more(folder, allowed):
    folder.make("other")
    key = raw_key(folder, "client")
    (folder.clients_dir / "client.key").unlink()
    assert allowed.name_of(key) is None


def test_without_the_folder_nobody_is_allowed(folder, allowed):
    key = raw_key(folder, "client")
    folder.clients_dir.rename(folder.path / "elsewhere")
    assert allowed.name_of(key) is None


def test_a_file_that_gets_another_key_in_place_is_seen_a_second_later(folder, allowed, monkeypatch):
    key = raw_key(folder, "client")
    other = CurveDir(folder.path / "other")
    other.make("client")
    (folder.clients_dir / "client.key").write_bytes((other.clients_dir / "client.key").read_bytes())
    assert allowed.name_of(key) == "client"
    monkeypatch.setattr(allowed_clients, "_LOOK_INTERVAL_S", 0.0)
    assert allowed.name_of(key) is None
    assert allowed.name_of(raw_key(other, "client")) == "client"


@pytest.mark.parametrize("name", ["bad", "a b", "caf\udce9"])
def test_a_file_without_a_key_is_told_once_and_keeps_nobody_out(folder, allowed, caplog, name):
    (folder.clients_dir / f"{name}.key").write_text("no key\n")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert allowed.name_of(raw_key(folder, "client")) == "client"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [
        "a client of other hosts is not let in"
    ]


def test_a_file_that_is_being_written_and_a_link_to_nowhere_are_left_alone(folder, allowed, caplog):
    (folder.clients_dir / ".new.key").write_text("")
    (folder.clients_dir / "link.key").symlink_to("nowhere")
    assert allowed.name_of(raw_key(folder, "client")) == "client"
    assert not caplog.records
