"""`fast-inference keys`, and a server that is to listen for other hosts without them."""

import time

import pytest

from tests.fast_inference.test_cli import call


def test_keys_are_made_once(tmp_path):
    first, second = call("keys", str(tmp_path / "keys")), call("keys", str(tmp_path / "keys"))
    assert (first.returncode, second.returncode, second.stdout) == (0, 0, "")
    names = {line.rpartition("/")[2] for line in first.stdout.splitlines()}
    assert names == {"server.key", "server.key_secret", "client.key", "client.key_secret"}


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (["--core-endpoint", "tcp://127.0.0.1:5999"], "go together"),
        (["--curve-dir", "DIR"], "go together"),
        (["--core-endpoint", "tcp://127.0.0.1:5999", "--curve-dir", "DIR"], "cannot read the key"),
        (["--frontends", "0"], "--frontends 0 needs --core-endpoint"),
        (["--connect", "tcp://127.0.0.1:5999"], "--connect needs --curve-dir"),
        (["--connect", "tcp://127.0.0.1:5999", "--curve-dir", "DIR"], "cannot read the key"),
        (["--connect", "tcp://*:5999", "--curve-dir", "DIR"], "is not like tcp://HOST:PORT"),
        (["--connect", "tcp://a:1", "--connect", "tcp://a:1", "--curve-dir", "DIR"], "the same core is there twice"),
        (["--connect", "tcp://a:1", "--core-endpoint", "tcp://b:1", "--curve-dir", "DIR"], "either elsewhere or here"),
        (["--core-endpoint", "ipc:///x", "--curve-dir", "DIR"], "is not like tcp://ADDRESS:PORT"),
    ],
)
def test_a_server_without_keys_does_not_start(tmp_path, flags, error):
    flags = [str(tmp_path) if flag == "DIR" else flag for flag in flags]
    started_at = time.monotonic()
    done = call("serve", "no-such-model-anywhere", "--port", "0", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert error in done.stderr
    assert time.monotonic() - started_at < 5
