from engine_core.scheduler.batch_turns import ONLINE_MEMORY_S, BatchTurns
from tests.factories import make_request


def test_online_is_remembered_for_a_while():
    turns = BatchTurns()
    assert not turns.has_online(0.0)
    turns.note_online(5.0)
    assert turns.has_online(5.0 + 0.9 * ONLINE_MEMORY_S)
    assert not turns.has_online(5.0 + ONLINE_MEMORY_S)


def test_where_there_is_room_for_all_there_are_no_turns():
    decodes = [make_request(4) for _ in range(3)]
    assert BatchTurns().take(decodes, 3) == decodes


def test_each_has_its_turn_before_any_has_a_second_one():
    turns, decodes = BatchTurns(), [make_request(4) for _ in range(5)]
    taken = [request for _ in range(5) for request in turns.take(decodes, 2)]
    assert [request.key for request in taken[:4]] == [request.key for request in decodes[:4]]
    assert taken[4] is decodes[4]
    assert all(taken.count(request) == 2 for request in decodes)


def test_one_that_comes_later_is_next():
    turns, decodes = BatchTurns(), [make_request(4) for _ in range(4)]
    turns.take(decodes, 2)
    newcomer = make_request(4)
    assert newcomer in turns.take([*decodes, newcomer], 3)
