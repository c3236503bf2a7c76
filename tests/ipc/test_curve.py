import os
import stat

import pytest
import zmq

from ipc.curve import CurveDir
from ipc.errors import ConfigError


@pytest.fixture
def folder(tmp_path):
    made = CurveDir(tmp_path / "keys")
    made.make("client")
    return made


def test_what_is_made_is_for_its_owner_alone(folder):
    for path in (folder.path, *folder.path.rglob("*")):
        expected = 0o700 if path.is_dir() else 0o600
        assert stat.S_IMODE(path.stat().st_mode) == expected


def test_keys_that_are_there_stay(folder):
    before = folder.server_keys()
    assert [path.name for path in folder.make("other")] == ["other.key_secret", "other.key"]
    assert folder.server_keys() == before
    assert sorted(folder.allowed_clients().values()) == ["client", "other"]


def test_the_keys_of_a_client_are_those_that_are_allowed(folder):
    keys = folder.client_keys("client")
    assert keys.public == zmq.curve_public(keys.secret)
    assert list(folder.allowed_clients()) == [keys.public]


def test_a_secret_that_others_may_read_is_refused(folder):
    (folder.path / "server.key_secret").chmod(0o640)
    with pytest.raises(ConfigError, match="others may read"):
        folder.server_keys()


@pytest.mark.parametrize("content", [b"", b"curve\n    public-key = ", os.urandom(200), b'public-key = "short"'])
def test_a_damaged_key_is_one_line(folder, content):
    (folder.path / "server.key").write_bytes(content)
    with pytest.raises(ConfigError, match="has no public key") as caught:
        folder.server_public_key()
    assert "\n" not in caught.value.message


def test_a_key_of_more_than_32_bytes_is_one_line(folder):
    (folder.path / "clients" / "client.key").write_text(f'public-key = "{"#" * 40}"')
    with pytest.raises(ConfigError, match="is damaged"):
        folder.allowed_clients()


def test_keys_that_do_not_belong_together_are_refused(folder):
    folder.make("other")
    secrets = [folder.path / "clients" / f"{name}.key_secret" for name in ("client", "other")]
    first, second = (path.read_text().splitlines() for path in secrets)
    secrets[0].write_text("\n".join([*first[:2], second[2], ""]))
    with pytest.raises(ConfigError, match="do not belong together"):
        folder.client_keys("client")


def test_a_missing_folder_says_how_to_make_it(tmp_path):
    with pytest.raises(ConfigError, match="fast-inference keys"):
        CurveDir(tmp_path / "absent").server_keys()


def test_a_list_of_nobody_is_refused(folder):
    (folder.path / "clients" / "client.key").unlink()
    with pytest.raises(ConfigError, match="may connect"):
        folder.allowed_clients()


def test_the_cores_of_a_host_may_have_a_key_of_their_own(folder):
    (folder.path / "servers").mkdir()
    key = folder.client_keys("client").public
    (folder.path / "servers" / "10.0.0.2.key").write_text(f'public-key = "{key.decode()}"')
    assert folder.server_public_key("10.0.0.2") == key
    assert folder.server_public_key("10.0.0.3") == folder.server_public_key() == folder.server_keys().public


@pytest.mark.parametrize("name", ["", "../server", "a/b", ".hidden", "a\nb"])
def test_a_name_is_no_path(folder, name):
    with pytest.raises(ConfigError, match="no name of a client"):
        folder.make(name)


def test_clients_that_are_set_are_the_only_ones(folder):
    keys = {name: CurveDir(folder.path.parent / name).make_client(name) for name in ("one", "two")}
    folder.set_clients(keys)
    assert folder.allowed_clients() == {keys[name].encode(): name for name in keys}
    folder.set_clients({"two": keys["two"]})
    assert list(folder.allowed_clients().values()) == ["two"]
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in folder.clients_dir.glob("*.key"))


@pytest.mark.parametrize(("name", "key"), [("../x", "0" * 40), ("x", "short"), ("x", '"' * 40)])
def test_a_client_without_a_proper_name_and_key_is_refused(folder, name, key):
    with pytest.raises(ConfigError):
        folder.set_clients({name: key})
    assert list(folder.allowed_clients().values()) == ["client"]


def test_keys_of_one_side_alone(tmp_path):
    folder = CurveDir(tmp_path / "keys")
    assert folder.make_server() == folder.make_server() == folder.server_keys().public.decode()
    assert folder.make_client("me") == folder.client_keys("me").public.decode()
    folder.remove()
    assert not folder.path.exists()
