"""Requests go where their prefix is, unless too much waits there; all frontends decide alike."""

from array import array
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frontend.engine_router import EngineRouter
from frontend.routing.core_load import LoadScale
from ipc.messages import Add, Load, RequestId, Task
from ipc.placement import CoreView
from tests.factories import make_params, make_welcome

BLOCK_SIZE = 4
SEATS = 64
names_of_cores = st.lists(st.text("abc012", min_size=1, max_size=4), min_size=2, max_size=9, unique=True)
prompts = st.lists(st.integers(0, 30), min_size=BLOCK_SIZE, max_size=60)


def make_router(names: Sequence[str], **knobs) -> EngineRouter:
    router = EngineRouter(BLOCK_SIZE, **knobs)
    router.on_cores_changed(names)
    return router


def make_core(name: str, *, max_num_seqs: int = SEATS, num_sent_since: int = 0, **load) -> CoreView:
    welcome = make_welcome(max_num_seqs=max_num_seqs, num_blocks=1000)
    load = Load(**{"num_free_blocks": 1000, "num_blocks": 1000, **load})
    return CoreView(name, is_ready=True, welcome=welcome, load=load, num_sent_since=num_sent_since)


def make_cores(names: Sequence[str]) -> list[CoreView]:
    return [make_core(name) for name in names]


def make_add(prompt: Sequence[int], **fields) -> Add:
    return Add(RequestId(1), array("i", prompt), fields.pop("sampling_params", make_params()), **fields)


def session(number: int, num_tokens: int = 20) -> list[int]:
    """A prompt of its own: no block of it is in another one's."""
    return [1_000_000 + 1000 * number + index for index in range(num_tokens)]


def chosen(router: EngineRouter, prompt: Sequence[int], cores: Sequence[CoreView], **fields) -> str:
    return cores[router.choose(make_add(prompt, **fields), cores)].name


@given(names_of_cores, prompts, st.randoms(use_true_random=False))
def test_frontends_that_remember_nothing_agree(names, prompt, random):
    shuffled = random.sample(names, len(names))
    assert chosen(make_router(names), prompt, make_cores(names)) == chosen(
        make_router(shuffled), prompt, make_cores(shuffled)
    )


@given(prompts, prompts)
def test_the_first_block_decides_where_nothing_is_remembered(one, other):
    names = list("abcdefgh")
    other = [*one[:BLOCK_SIZE], *other]
    assert chosen(make_router(names), one, make_cores(names)) == chosen(make_router(names), other, make_cores(names))


@given(names_of_cores, st.data())
def test_a_core_that_leaves_moves_only_its_own_prompts(names, data):
    leaving = data.draw(st.sampled_from(names))
    left = [name for name in names if name != leaving]
    router, smaller_router = make_router(names), make_router(left)
    for number in range(40):
        before = chosen(router, session(number), make_cores(names))
        after = chosen(smaller_router, session(number), make_cores(left))
        assert after == before or before == leaving


def test_a_core_that_comes_takes_an_equal_share_from_all():
    router, grown_router = make_router("abcdefg"), make_router("abcdefgh")
    moved_from: Counter[str] = Counter()
    for number in range(1600):
        before = chosen(router, session(number), make_cores("abcdefg"))
        after = chosen(grown_router, session(number), make_cores("abcdefgh"))
        if after != before:
            assert after == "h"
            moved_from[before] += 1
    assert sum(moved_from.values()) == pytest.approx(1600 / 8, rel=0.25)
    assert min(moved_from[name] for name in "abcdefg") > 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30)), min_size=1, max_size=30), st.integers(1, 12))
def test_the_same_calls_give_the_same_answers(requests, num_cores):
    names = [str(index) for index in range(num_cores)]
    routers = make_router(names), make_router(names)
    for number, num_tokens in requests:
        prompt = session(number, num_tokens)
        assert chosen(routers[0], prompt, make_cores(names)) == chosen(routers[1], prompt, make_cores(names))


loads = st.builds(
    dict,
    num_running=st.integers(0, SEATS),
    num_waiting=st.integers(0, 40),
    num_queued_tokens=st.integers(0, 20_000),
    num_sent_since=st.integers(0, 20),
)


@given(st.lists(st.tuples(st.lists(loads, min_size=3, max_size=3), st.integers(0, 3)), min_size=1, max_size=20))
def test_no_core_takes_a_request_that_is_worse_than_another_by_the_bound(rounds):
    router = make_router("abc")
    prompt_of: dict[int, list[int]] = {}
    for loads_of_cores, number in rounds:
        prompt = prompt_of[number] = [*prompt_of.get(number, session(number)), *session(number + 100, 6)]
        cores = [make_core(name, **load) for name, load in zip("abc", loads_of_cores, strict=True)]
        index = router.choose(make_add(prompt), cores)
        all_loads = [LoadScale().load_of(core, len(prompt)) for core in cores]
        worth_of_prefix = len(prompt) / LoadScale().waiting_tokens
        assert all_loads[index] <= min(all_loads) + 1 + worth_of_prefix


def test_the_turns_of_a_chat_go_where_the_first_one_went_once_it_had_to_leave_its_core():
    router = make_router("abcd")
    home = chosen(make_router("abcd"), session(1), make_cores("abcd"))
    loaded = [make_core(name, num_waiting=20 if name == home else 0) for name in "abcd"]
    first = chosen(router, session(1), loaded)
    assert first != home
    prompt = session(1)
    for turn in range(2, 12):
        prompt = [*prompt, *session(turn, 10)]
        assert chosen(router, prompt, make_cores("abcd")) == first


def test_a_turn_that_ends_between_two_depths_is_found_exactly():
    """Chats differ only in their last block before the turn ends, at a depth that no hash is kept for."""
    system = session(0, 17 * BLOCK_SIZE)
    router = make_router("abcd")
    first_turns = [[*system, *session(number, 2 * BLOCK_SIZE)] for number in range(1, 40)]
    where = [chosen(router, prompt, make_cores("abcd")) for prompt in first_turns]
    assert len(set(where)) == 4
    for prompt, core in zip(first_turns, where, strict=True):
        assert chosen(router, [*prompt, *session(99, 30 * BLOCK_SIZE)], make_cores("abcd")) == core


def send_burst(router: EngineRouter, cores: Sequence[CoreView], burst: Sequence[Sequence[int]]) -> list[int]:
    """How many each core was sent, before any of them says anything."""
    for prompt in burst:
        core = cores[router.choose(make_add(prompt), cores)]
        core.num_sent_since += 1
        core.num_tokens_sent_since += len(prompt)
    return [core.num_sent_since for core in cores]


@pytest.mark.parametrize("num_cores", [2, 8])
def test_a_burst_of_chats_with_the_same_system_prompt_spreads(num_cores):
    cores = make_cores([str(index) for index in range(num_cores)])
    burst = [[*session(0, 100), *session(number, 20)] for number in range(1, 33)]
    counts = send_burst(make_router([core.name for core in cores]), cores, burst)
    assert max(counts) - min(counts) <= 8
    assert max(counts) <= 32 / num_cores + 6


def test_a_burst_of_equal_prompts_spreads():
    cores = make_cores("ab")
    assert min(send_burst(make_router("ab"), cores, [session(0, 100)] * 32)) >= 12


def test_a_system_prompt_of_all_traffic_fills_all_cores():
    router = make_router("abcd")
    prompts_of_chats = [[*session(0, 50), *session(number, 30)] for number in range(1, 401)]
    counts = Counter(chosen(router, prompt, make_cores("abcd")) for prompt in prompts_of_chats)
    assert min(counts[name] for name in "abcd") > 60


def test_prompts_with_a_common_beginning_that_few_have_share_a_core():
    router = make_router("abcd")
    where: dict[int, set[str]] = {}
    for number in range(400):
        document = number % 10
        prompt = [*session(document, 50), *session(1000 + number, 30)]
        where.setdefault(document, set()).add(chosen(router, prompt, make_cores("abcd")))
    assert all(len(names) == 1 for names in where.values())
    assert len(set.union(*where.values())) > 1


def test_a_chat_that_is_all_the_traffic_stays_where_it_is():
    router = make_router("ab")
    prompt = session(0, 3)
    where = set()
    for turn in range(1, 100):
        prompt = [*prompt, *session(turn, 1 + turn % 13)]
        where.add(chosen(router, prompt, make_cores("ab")))
        where.add(chosen(router, prompt, make_cores("ab")))
    assert len(prompt) > 128 * BLOCK_SIZE
    assert len(where) == 1


def test_a_frontend_finds_chats_under_a_common_system_prompt_that_it_has_never_seen():
    routers = make_router("abcd"), make_router("abcd")
    system = session(0, 50)
    chats = [[*system, *session(number, 3 + number % 20)] for number in range(1, 101)]
    for number in range(101, 120):  # both have seen the system prompt
        for router in routers:
            chosen(router, [*system, *session(number, 9)], make_cores("abcd"))
    where = [chosen(routers[0], prompt, make_cores("abcd")) for prompt in chats]
    found = [chosen(routers[1], [*prompt, *session(500, 60)], make_cores("abcd")) for prompt in chats]
    num_equal = sum(one == other for one, other in zip(where, found, strict=True))
    assert num_equal >= 75  # those whose first turn has 8 tokens behind the system prompt
    assert min(Counter(where).values()) >= 10


def test_the_example_of_the_documents():
    """docs/architecture.md, "Which core takes a request"."""
    names = list("abcd")
    router, other_frontend = EngineRouter(), EngineRouter()
    system = session(0, 700)
    for number in range(1, 30):
        for one in (router, other_frontend):
            chosen(one, [*system, *session(number, 30)], make_cores(names))
    first_turn = [*system, *session(100, 30)]
    second_turn = [*first_turn, *session(101, 270)]
    home = chosen(other_frontend, second_turn, make_cores(names))
    cores = [
        make_core(name, num_running=21, num_waiting=4, num_queued_tokens=2600)
        if name == home
        else make_core(name, num_running=18)
        for name in names
    ]
    away = chosen(router, first_turn, cores)
    assert away != home
    cores = [make_core(name, num_running=17 if name == away else 0) for name in names]
    assert chosen(router, second_turn, cores) == away


def test_a_burst_of_turns_stays_where_their_chats_are_and_one_of_new_documents_does_not():
    """Tokens that the core has already are no work."""
    chats = [session(number, 1000) for number in range(60)]
    router = EngineRouter()
    at_home = [prompt for prompt in chats if chosen(router, prompt, make_cores("ab")) == "a"][:8]
    assert len(at_home) == 8
    turns = [[*prompt, *session(100, 20)] for prompt in at_home]
    assert send_burst(router, make_cores("ab"), turns) == [8, 0]
    assert min(send_burst(EngineRouter(), make_cores("ab"), turns)) >= 2


@pytest.mark.parametrize("field", ["cache_salt", "adapter"])
def test_salts_and_adapters_are_prefixes_of_their_own(field):
    where = {}
    for number in range(30):
        router = make_router("abcd")
        where[number] = chosen(router, session(0), make_cores("abcd"), **{field: str(number)})
        assert chosen(router, session(0), make_cores("abcd"), **{field: str(number)}) == where[number]
    assert len(set(where.values())) == 4


def test_salt_and_adapter_are_not_confused():
    names = [str(index) for index in range(64)]
    cores = make_cores(names)
    as_salt = chosen(make_router(names), session(0), cores, cache_salt="ab", adapter="c")
    assert as_salt != chosen(make_router(names), session(0), cores, cache_salt="a", adapter="bc")


@pytest.mark.parametrize(
    ("prompt", "fields"),
    [
        (session(0, BLOCK_SIZE - 1), {}),
        (session(0), {"task": Task.EMBED}),
        (session(0), {"sampling_params": make_params(num_prompt_logprobs=0)}),
    ],
    ids=["shorter than a block", "embedding", "prompt logprobs"],
)
def test_what_reads_no_cache_goes_to_the_less_loaded_of_two(prompt, fields):
    router = make_router("abcd")
    counts = Counter(chosen(router, prompt, make_cores("abcd"), **fields) for _ in range(400))
    assert all(count > 60 for count in counts.values()), counts
    cores = [make_core("a", num_running=3), make_core("b", num_running=2)]
    assert {chosen(make_router("ab"), prompt, cores, **fields) for _ in range(20)} == {"b"}


AVOIDED = {
    "full": {"num_running": 8, "max_num_seqs": 8},
    "waiting": {"num_running": 8, "num_waiting": 9},
    "without room": {"num_running": 16, "num_free_blocks": 1},
    "refusing": {"retry_after_ms": 1000},
}


@pytest.mark.parametrize("load", AVOIDED.values(), ids=AVOIDED.keys())
def test_a_core_where_requests_would_wait_is_avoided(load):
    for number in range(30):
        router = make_router("ab")
        assert chosen(router, session(number), [make_core("a", **load), make_core("b")]) == "b"


def test_cores_are_compared_by_how_full_they_are():
    small, large = make_core("a", num_running=6, max_num_seqs=8), make_core("b", num_running=30, max_num_seqs=256)
    assert all(chosen(make_router("ab"), session(number), [small, large]) == "b" for number in range(20))


def test_what_went_to_a_core_that_is_gone_is_forgotten():
    router = make_router("abcd")
    where = {number: chosen(router, session(number), make_cores("abcd")) for number in range(40)}
    left = sorted({"a", "b", "c", "d"} - {where[0]})
    router.on_cores_changed(left)
    moved = {number: chosen(router, session(number), make_cores(left)) for number in range(40)}
    assert all(moved[number] == where[number] for number in range(40) if where[number] in left)
    router.on_cores_changed("abcd")
    back = {number: chosen(router, session(number), make_cores("abcd")) for number in range(40)}
    assert back == moved


def test_only_cores_of_the_list_are_chosen():
    router = make_router("abcd")
    for number in range(60):
        chosen(router, session(number), make_cores("abcd"))
    for number in range(120):
        assert chosen(router, session(number), make_cores("ca")) in "ca"
        assert chosen(router, session(number), make_cores("d")) == "d"


def test_only_cores_that_have_the_prefix_are_preferred_to_less_loaded_ones():
    for number in range(12):
        prompt, router = session(number, 3000), EngineRouter()
        home = chosen(router, prompt, make_cores("abcd"))
        loaded = [make_core(name, num_waiting=60 if name == home else 0) for name in "abcd"]
        overflow = chosen(router, prompt, loaded)
        more, less = (name for name in "abcd" if name not in (home, overflow))
        loads = {home: 63, more: 36, less: 20}  # the one that took it over takes nothing now
        cores = [make_core(name, num_running=count) for name, count in loads.items()]
        assert chosen(router, prompt, cores) == less


def test_a_router_that_was_told_of_no_cores_learns_them_from_the_list():
    assert chosen(EngineRouter(BLOCK_SIZE), session(3), make_cores("abcd")) == chosen(
        make_router("abcd"), session(3), make_cores("abcd")
    )


def test_memory_is_bounded_and_keeps_what_was_used_last():
    router = make_router("ab", max_nodes=100)
    home = chosen(make_router("ab"), session(1), make_cores("ab"))
    loaded = [make_core(name, num_waiting=20 if name == home else 0) for name in "ab"]
    away = chosen(router, session(1), loaded)
    for number in range(2, 15):
        chosen(router, session(number), make_cores("ab"))
    assert chosen(router, session(1), make_cores("ab")) == away
    for number in range(2, 300):
        chosen(router, session(number), make_cores("ab"))
    assert chosen(router, session(1), make_cores("ab")) == home
