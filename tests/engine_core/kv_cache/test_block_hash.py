from array import array

from engine_core.kv_cache.block_hash import BlockHasher

HASHER = BlockHasher(4, seed=b"seed")


def hashes(tokens, salt="", hasher=HASHER):
    found = []
    hasher.extend(found, array("i", tokens), salt)
    return found


def test_only_full_blocks_are_hashed():
    assert [len(hashes(range(count))) for count in (0, 3, 4, 7, 8)] == [0, 0, 1, 1, 2]


def test_extending_gives_the_same_as_hashing_at_once():
    grown = hashes(range(5))
    HASHER.extend(grown, array("i", range(13)), "")
    assert grown == hashes(range(13))


def test_equal_blocks_after_different_prefixes_differ():
    assert hashes([0, 0, 0, 0, 1, 2, 3, 4])[1] != hashes([9, 0, 0, 0, 1, 2, 3, 4])[1]


def test_a_salt_changes_every_hash():
    assert not set(hashes(range(8))) & set(hashes(range(8), salt="mine"))


def test_another_process_has_other_hashes():
    assert hashes(range(8), hasher=BlockHasher(4)) != hashes(range(8), hasher=BlockHasher(4))


def test_each_adapter_has_hashes_of_its_own():
    found: list[set] = []
    for fingerprint in (b"", b"one", b"two"):
        of_adapter: list = []
        HASHER.extend(of_adapter, array("i", range(8)), "", fingerprint)
        found.append(set(of_adapter))
    assert len(set.union(*found)) == 6
