"""The sender on real sockets: what has no room waits, merged and divided, and whoever takes nothing is given up."""

import errno
import time
from array import array
from unittest.mock import patch

import pytest
import zmq

from engine_core import client_sender
from engine_core.client_registry import ClientRegistry
from engine_core.client_sender import ClientSender
from engine_core.core import ClientOutputs
from engine_core.output_queue import MAX_PORTION_BYTES
from ipc import codec, endpoints
from ipc.messages import ClientRole, Finished, FinishReason, Hello, Load, RequestId, Step

HELLO = Hello("reader", ClientRole.FRONTEND, 0, 0, 0)


class Pair:
    """A sender, and one client that reads only when told."""

    def __init__(self, context, path, queue_length):
        with (
            patch.object(endpoints, "SEND_QUEUE_MESSAGES", queue_length),
            patch.object(endpoints, "RECEIVE_QUEUE_MESSAGES", queue_length),
        ):
            self.router = endpoints.make_core_socket(context)
            self.router.bind(f"ipc://{path}")
            self.dealer = endpoints.connect_to_core(context, path)
        self.dealer.send(codec.encode(HELLO, 0))
        assert self.router.poll(5000)
        identity = self.router.recv_multipart()[0]
        clients = ClientRegistry()
        self.client = clients.add(identity, HELLO, None)
        self.gone = []
        self.sender = ClientSender(self.router, clients, 1, lambda client, reason: self.gone.append(reason))

    def read(self):
        """Every message that has arrived."""
        messages = []
        while self.dealer.poll(100):
            messages.append(codec.decode_core_message(self.dealer.recv()))
        return messages

    def deliver(self, outputs):
        self.sender.deliver({self.client.slot: outputs}, 1, Load())


@pytest.fixture
def make_pair(tmp_path):
    pairs = []
    with zmq.Context() as context:

        def make(queue_length=1000):
            pairs.append(Pair(context, tmp_path / "core.sock", queue_length))
            return pairs[-1]

        yield make
        for pair in pairs:
            pair.dealer.close(0)
            pair.router.close(0)


def make_outputs(*tokens):
    """(request id, token id) each."""
    outputs = ClientOutputs()
    for request_id, token_id in tokens:
        outputs.request_ids.append(request_id)
        outputs.token_ids.append(token_id)
    return outputs


def add_large_rows(outputs, request_id, num_bytes):
    """Log-probabilities of one position that take about so many bytes."""
    num_entries = num_bytes // 8
    outputs.request_ids.append(request_id)
    outputs.token_ids.append(0)
    outputs.logprob_request_ids.append(request_id)
    outputs.logprob_counts.append(num_entries)
    outputs.logprob_ranks.append(1)
    outputs.logprob_token_ids.extend(array("i", bytes(4 * num_entries)))
    outputs.logprobs.extend(array("f", bytes(4 * num_entries)))


def test_what_a_step_gave_is_one_message(make_pair):
    pair = make_pair()
    pair.deliver(make_outputs((1, 10), (2, 20)))
    [step] = pair.read()
    assert (step.request_ids.tolist(), step.token_ids.tolist()) == ([1, 2], [10, 20])


def test_too_large_outputs_come_as_several_steps_in_sequence(make_pair):
    pair = make_pair()
    outputs = ClientOutputs()
    for request_id in range(1, 6):
        add_large_rows(outputs, request_id, MAX_PORTION_BYTES // 2)
    pair.deliver(outputs)
    assert pair.dealer.poll(5000)  # so many bytes take their time on a busy machine
    steps = pair.read()
    assert len(steps) > 1
    assert [step.sequence for step in steps] == list(range(1, len(steps) + 1))
    assert [request_id for step in steps for request_id in step.request_ids] == [1, 2, 3, 4, 5]
    assert not pair.client.is_blocked


def test_what_a_slow_client_did_not_take_comes_merged_and_whole(make_pair):
    pair = make_pair(queue_length=1)
    num_sent = 2000
    for token_id in range(num_sent):
        outputs = make_outputs((1, token_id))
        outputs.logprob_token_ids.extend(array("i", bytes(4096)))
        pair.deliver(outputs)
    assert pair.sender.has_blocked_clients
    steps: list[Step] = []
    while pair.sender.has_blocked_clients:
        steps += pair.read()
        pair.sender.retry(1, Load())
    steps += pair.read()
    assert [token_id for step in steps for token_id in step.token_ids] == list(range(num_sent))
    assert len(steps) < num_sent


def test_a_finished_request_is_live_until_its_end_is_sent(make_pair):
    pair = make_pair()
    pair.client.live = {1: 7, 2: 8}
    outputs = make_outputs((1, 10))
    outputs.finished.append(Finished(RequestId(1), FinishReason.STOP, 1, 1))
    pair.deliver(outputs)
    assert pair.client.live == {2: 8}


def test_who_takes_nothing_is_given_up(make_pair):
    pair = make_pair(queue_length=1)
    while not pair.sender.has_blocked_clients:
        outputs = make_outputs((1, 0))
        outputs.logprob_token_ids.extend(array("i", bytes(100_000)))
        pair.deliver(outputs)
    pair.sender.retry(1, Load())
    assert pair.gone == []
    with patch.object(client_sender, "LEASE_S", 0.0):
        pair.sender.retry(1, Load())
    assert len(pair.gone) == 1


def test_a_client_whose_connection_is_gone_is_given_up(make_pair):
    pair = make_pair()
    pair.dealer.close(0)
    deadline = time.monotonic() + 5
    while not pair.gone and time.monotonic() < deadline:
        pair.deliver(make_outputs((1, 1)))
    assert pair.gone


def test_nobody_is_turned_away_twice(make_pair):
    """A BYE to an identity that has left raises nothing."""
    pair = make_pair()
    pair.sender.turn_away(b"nobody here", client_sender.Bye("evicted"))
    with pytest.raises(zmq.ZMQError) as raised:
        pair.router.send_multipart([b"nobody here", b""])
    assert raised.value.errno == errno.EHOSTUNREACH
