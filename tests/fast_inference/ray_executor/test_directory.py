from dataclasses import replace

import pytest

from fast_inference.ray_executor.directory import CLIENT_LEASE_S, LATE_S, LET_GO_S, SETTLING_S, Directory
from fast_inference.ray_executor.records import ClientHello, CoreReport
from ipc.messages import Load

A, B = ClientHello("a", "key of a"), ClientHello("b", "key of b")


def report(core="0", clients=("a",), state="ready", incarnation="x", **fields):
    endpoint = f"tcp://10.0.0.1:500{core}"
    return CoreReport(
        core, incarnation, "node", "10.0.0.1", endpoint, "server key", clients=clients, state=state, **fields
    )


@pytest.fixture
def directory():
    directory = Directory(0.0, 2)
    directory.on_client(A, 0.0)
    for name in ("0", "1"):
        directory.add_core(name)
        directory.on_report(report(name), 0.0)
    return directory


def listed(directory, client="a"):
    return [core.name for core in directory.view_for(client, 100.0).listed]


def test_a_core_is_told_who_may_connect(directory):
    directory.on_client(B, 1.0)
    assert directory.on_report(report(), 1.0).clients == {"a": "key of a", "b": "key of b"}


def test_a_core_is_listed_once_it_has_let_the_client_in(directory):
    directory.on_client(B, 1.0)
    assert listed(directory, "b") == []
    directory.on_report(report(clients=("a", "b")), 1.0)
    assert listed(directory, "b") == ["0"]


def test_a_core_that_still_loads_is_not_listed_but_one_that_starts_again_where_it_was_is(directory):
    directory.add_core("2")
    directory.on_report(report("2", state="loading"), 1.0)
    directory.on_report(report("1", state="loading"), 1.0)
    assert listed(directory) == ["0", "1"]


def test_a_core_on_another_node_is_listed_once_it_is_ready_there(directory):
    moved = report(incarnation="y", state="loading")
    directory.on_report(moved, 1.0)
    assert listed(directory) == ["1"]
    directory.on_report(replace(moved, state="ready", endpoint="tcp://10.0.0.9:1"), 2.0)
    assert directory.view_for("a", 200.0).listed[0].endpoint == "tcp://10.0.0.9:1"


def test_a_late_core_is_not_listed_until_it_is_heard_again(directory):
    directory.on_report(report("1"), LATE_S)
    directory.expire(LATE_S + 0.1)
    assert listed(directory) == ["1"]
    directory.on_report(report("0"), LATE_S + 0.2)
    assert listed(directory) == ["0", "1"]


def test_what_was_not_heard_while_nobody_listened_is_no_silence(directory):
    directory.expire(LATE_S + 1, slept_s=LATE_S)
    assert listed(directory) == ["0", "1"]


def test_a_core_whose_actor_does_not_answer_is_not_listed_and_counts_as_unplaced(directory):
    assert directory.on_unavailable("0", 1.0)
    assert not directory.on_unavailable("0", 1.0)
    assert listed(directory) == ["1"]
    assert directory.view_for("a", 200.0).num_unplaced == 1


def test_what_was_asked_of_an_actor_before_it_was_started_elsewhere_says_nothing_of_it_there(directory):
    assert directory.on_unavailable("0", 1.0)
    directory.on_report(report("0", incarnation="y", state="loading"), 3.0)
    directory.on_report(report("0", incarnation="y"), 3.5)
    assert not directory.on_unavailable("0", 2.5)
    assert listed(directory) == ["0", "1"]
    assert directory.on_unavailable("0", 4.0)


def test_a_core_that_is_to_end_is_told_so_once_nobody_uses_it(directory):
    directory.on_client(replace(A, cores=("0", "1")), 1.0)
    directory.end_core("0", 1.0)
    assert listed(directory) == ["1"]
    assert not directory.on_report(report(), 1.1).must_end
    directory.on_client(replace(A, cores=("1",)), 1.2)
    assert directory.on_report(report(), 1.3).must_end


def test_a_core_that_is_used_for_too_long_is_told_to_end_even_so(directory):
    directory.on_client(replace(A, cores=("0", "1")), 1.0)
    directory.end_core("0", 1.0)
    assert directory.on_report(report(), 1.1 + LET_GO_S).must_end


def test_a_core_counts_as_ended_when_it_says_so_when_it_is_lost_or_when_it_takes_too_long(directory):
    directory.end_core("0", 1.0)
    directory.end_core("1", 1.0)
    assert directory.ended(2.0, 30.0) == []
    directory.on_report(report("0", has_ended=True), 2.0)
    assert directory.ended(2.0, 30.0) == ["0"]
    directory.on_unavailable("1", 1.0)
    assert directory.ended(2.0, 30.0) == ["0", "1"]


def test_a_core_that_nobody_counts_any_more_is_told_to_end(directory):
    directory.forget_core("0")
    assert directory.on_report(report(), 1.0).must_end


def test_the_idlest_core_is_one_that_does_not_serve_else_the_one_with_the_fewest_requests(directory):
    directory.on_report(report("0", load=Load(num_running=1)), 1.0)
    directory.on_report(report("1", load=Load(num_running=3)), 1.0)
    assert directory.idlest() == "0"
    directory.on_unavailable("1", 1.0)
    assert directory.idlest() == "1"


def test_only_cores_that_take_requests_have_a_load(directory):
    directory.on_report(report("0", state="loading"), 1.0)
    directory.end_core("1", 1.0)
    assert directory.loads() == []


def test_the_fleet_ends_with_the_last_agent(directory):
    directory.on_client(B, 1.0)
    assert not directory.on_leave("a")
    assert directory.on_leave("b")


def test_a_directory_that_was_started_again_does_not_end_the_fleet_under_agents_it_has_not_heard_yet():
    again = Directory(100.0, 1)
    again.add_core("0")
    again.on_client(A, 100.1)
    again.on_report(report(clients=("a", "b")), 100.2)
    assert not again.on_leave("a")
    again.on_client(B, 100.5)
    assert again.on_leave("b")


def test_a_fleet_whose_agents_are_silent_for_a_lease_is_deserted(directory):
    directory.expire(CLIENT_LEASE_S)
    assert not directory.is_deserted(CLIENT_LEASE_S)
    directory.expire(CLIENT_LEASE_S + 0.1)
    assert directory.is_deserted(CLIENT_LEASE_S + 0.1)


def test_a_directory_that_was_started_again_is_settled_once_all_its_cores_have_reported():
    again = Directory(100.0, 2)
    again.on_client(A, 100.0)
    for name in ("0", "1"):
        again.add_core(name)
    again.on_report(report("0"), 100.5)
    again.expire(100.5)
    assert not again.view_for("a", 200.0).is_settled
    again.on_report(report("1"), 101.0)
    again.expire(101.0)
    assert again.view_for("a", 200.0).is_settled


def test_what_cores_are_told_by_a_directory_that_is_not_settled_turns_nobody_out():
    again = Directory(100.0, 1)
    again.add_core("0")
    assert not again.on_report(report("0"), 100.0).are_all
    again.expire(100.1)
    assert not again.on_report(report("0"), 100.2).are_all  # agents have not been heard yet
    assert again.on_report(report("0"), 100.1 + SETTLING_S).are_all


def test_an_agent_that_comes_waits_until_the_cores_have_let_it_in(directory):
    directory.expire(1.0)
    directory.on_client(B, 1.0)
    assert not directory.view_for("b", 1.1).is_settled
    for name in ("0", "1"):
        directory.on_report(report(name, clients=("a", "b")), 1.2)
    assert directory.view_for("b", 1.3).is_settled


def test_an_agent_does_not_wait_for_a_core_that_never_lets_it_in(directory):
    directory.expire(1.0)
    directory.on_client(B, 1.0)
    assert directory.view_for("b", 1.0 + SETTLING_S).is_settled


def test_a_directory_does_not_wait_for_a_lost_core_for_ever():
    again = Directory(100.0, 1)
    again.add_core("0")
    again.expire(100.1 + SETTLING_S)
    assert again.view_for("a", 200.0).is_settled
