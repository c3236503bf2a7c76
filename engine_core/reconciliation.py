"""The last net under lost messages: what only one side knows, of a client's requests, is ended.

Owned by the I/O thread, which calls it for the beats of clients and for their answers to RECONCILE.
"""

from queue import SimpleQueue

from engine_core.client_registry import Client
from engine_core.client_sender import ClientSender
from engine_core.events import AbortRequests, Event
from ipc.messages import DISCONNECT, ClientBeat, Live, Reconcile, Reject, RequestId

_MISMATCHES_BEFORE_RECONCILE = 3


class Reconciliation:
    """Compares what clients say with what the registry has."""

    def __init__(self, sender: ClientSender, inbox: "SimpleQueue[Event]") -> None:
        self._sender = sender
        self._inbox = inbox

    def on_beat(self, client: Client, beat: ClientBeat) -> None:
        """Ask for the whole set where the counts disagree for longer than a message can be under way."""
        is_equal = beat.num_live_requests == len(client.live)
        client.num_live_mismatches = 0 if is_equal else client.num_live_mismatches + 1
        if client.num_live_mismatches >= _MISMATCHES_BEFORE_RECONCILE:
            client.num_live_mismatches = 0
            self._sender.send(client, Reconcile(beat.sequence))

    def on_live(self, client: Client, live: Live) -> None:
        """End what only one side knows."""
        theirs = set(live.request_ids)
        forgotten = tuple(key for request_id, key in client.live.items() if request_id not in theirs)
        if forgotten:
            self._inbox.put(AbortRequests(forgotten, reason=DISCONNECT))
        for request_id in theirs - client.live.keys():
            reject = Reject(RequestId(request_id), "request_lost", "The engine does not know this request any more.")
            self._sender.send_in_order(client, reject)
