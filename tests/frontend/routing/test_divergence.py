"""How much prompts with the same beginning share is learned from pairs of them."""

from array import array

from frontend.routing.divergence import KEY_TOKENS, Divergence


def rest(num_common: int, chat: int, num_own: int = 20) -> bytes:
    return array("i", [*range(num_common), *range(1000 * chat, 1000 * chat + num_own)]).tobytes()


def num_key_tokens(divergence: Divergence, prompt: bytes) -> int:
    return divergence.observe(prompt) // 4


def test_nothing_is_known_from_one_prompt():
    assert Divergence().observe(rest(30, 1)) == 0


def test_two_chats_tell_what_they_share():
    divergence = Divergence()
    divergence.observe(rest(30, 1))
    assert num_key_tokens(divergence, rest(30, 2)) == 30 + KEY_TOKENS


def test_a_prompt_that_goes_on_from_the_last_one_tells_nothing():
    divergence = Divergence()
    assert [divergence.observe(rest(30, 1, num_own)) for num_own in (10, 20, 20, 5)] == [0, 0, 0, 0]


def test_pairs_that_share_more_or_less_by_chance_change_nothing():
    divergence = Divergence()
    for chat in range(1, 12):
        divergence.observe(rest(30, chat))
    divergence.observe(rest(10, 50))
    divergence.observe(rest(33, 51))
    assert num_key_tokens(divergence, rest(30, 60)) == 30 + KEY_TOKENS


def test_another_system_prompt_is_learned():
    divergence = Divergence()
    for chat in range(1, 20):
        divergence.observe(rest(30, chat))
    for chat in range(20, 100):
        divergence.observe(rest(40, chat))
    assert num_key_tokens(divergence, rest(40, 200)) == 40 + KEY_TOKENS


def test_prompts_that_part_at_once_share_nothing():
    divergence = Divergence()
    divergence.observe(rest(0, 1))
    assert num_key_tokens(divergence, rest(0, 2)) == KEY_TOKENS


def test_tokens_that_share_some_of_their_bytes_differ():
    divergence = Divergence()
    divergence.observe(array("i", [7, 0x010203, 5]).tobytes())
    assert num_key_tokens(divergence, array("i", [7, 0x020203, 5]).tobytes()) == 1 + KEY_TOKENS
