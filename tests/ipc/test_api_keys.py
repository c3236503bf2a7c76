"""Keys become digests, and digests stay."""

import hashlib

import pytest

from ipc.api_keys import MAX_KEY_CHARS, digests_of, key_digest, key_id

DIGEST = "sha256:" + hashlib.sha256(b"secret").hexdigest()


def test_a_key_becomes_its_digest_and_a_digest_stays():
    assert digests_of(["secret", DIGEST]) == (DIGEST,)


def test_what_a_client_presents_is_hashed_even_if_it_is_a_digest():
    assert key_digest(DIGEST.encode()) != DIGEST


def test_the_name_of_a_key_is_short_and_not_the_key():
    assert key_id(DIGEST) == "key-2bb80d537b1da3e3"


@pytest.mark.parametrize("key", ["", " ", "a b", "a\n", "é", "x" * (MAX_KEY_CHARS + 1)])
def test_what_no_header_carries_is_no_key(key: str):
    with pytest.raises(ValueError, match="visible ASCII"):
        digests_of([key])
