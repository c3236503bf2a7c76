"""Outputs that one client has not been sent yet, in portions that each fit into a STEP message.

Owned by `client_registry.Client`, emptied by `client_sender.py`. What a slow client has not taken is merged, so that
it gets few messages once it reads again; what is too large for one message is divided.
Invariant: portions are in the order of the steps; all that a step gave for a request is in one portion; none is larger
than `max_bytes` unless it holds the outputs of one request in one step, which `request_intake.py` bounds.
"""

from collections import defaultdict, deque
from itertools import groupby

from engine_core.core import ClientOutputs
from ipc.codec import MAX_FRAME_BYTES

MAX_PORTION_BYTES = MAX_FRAME_BYTES // 4
_RECORD_BYTES = 8 * 1024
"""More than a `Started` or `Finished` takes, with the longest error message; so a portion has at most 2,048 of them."""


class OutputQueue:
    """Portions of outputs, first in, first out."""

    def __init__(self, max_bytes: int = MAX_PORTION_BYTES) -> None:
        self._max_bytes = max_bytes
        self._portions: deque[ClientOutputs] = deque()

    def __len__(self) -> int:
        return len(self._portions)

    @property
    def first(self) -> ClientOutputs:
        """What is to be sent next."""
        return self._portions[0]

    def append(self, outputs: ClientOutputs) -> None:
        """Add what a step gave; the queue may change `outputs` later."""
        num_bytes = _num_bytes(outputs)
        if num_bytes > self._max_bytes:
            parts = _of_each_request(outputs)
            if len(parts) > 1:
                for part in parts:
                    self.append(part)
                return
        if self._portions and _num_bytes(self._portions[-1]) + num_bytes <= self._max_bytes:
            self._portions[-1].extend(outputs)
        else:
            self._portions.append(outputs)

    def pop_first(self) -> None:
        """The first portion is sent."""
        self._portions.popleft()


def _num_bytes(outputs: ClientOutputs) -> int:
    """Size of the STEP message, or somewhat more."""
    columns = (
        outputs.request_ids,
        outputs.token_ids,
        outputs.embedding_request_ids,
        outputs.embeddings,
        outputs.logprob_request_ids,
        outputs.logprob_counts,
        outputs.logprob_ranks,
        outputs.logprob_token_ids,
        outputs.logprobs,
    )
    num_records = len(outputs.started) + len(outputs.finished)
    return sum(len(column) * column.itemsize for column in columns) + num_records * _RECORD_BYTES


def _of_each_request(outputs: ClientOutputs) -> list[ClientOutputs]:
    """Divide what a step gave into the outputs of each request alone."""
    parts: defaultdict[int, ClientOutputs] = defaultdict(ClientOutputs)
    for request_id, token_id in zip(outputs.request_ids, outputs.token_ids, strict=True):
        parts[request_id].request_ids.append(request_id)
        parts[request_id].token_ids.append(token_id)
    for started in outputs.started:
        parts[started.request_id].started.append(started)
    for finished in outputs.finished:
        parts[finished.request_id].finished.append(finished)
    size = len(outputs.embeddings) // max(1, len(outputs.embedding_request_ids))
    for row, request_id in enumerate(outputs.embedding_request_ids):
        parts[request_id].embedding_request_ids.append(request_id)
        parts[request_id].embeddings.extend(outputs.embeddings[row * size : (row + 1) * size])
    first_row = first_entry = 0
    for request_id, group in groupby(outputs.logprob_request_ids):
        rows = slice(first_row, first_row + len(list(group)))
        entries = slice(first_entry, first_entry + sum(outputs.logprob_counts[rows]))
        part = parts[request_id]
        part.logprob_request_ids.extend(outputs.logprob_request_ids[rows])
        part.logprob_counts.extend(outputs.logprob_counts[rows])
        part.logprob_ranks.extend(outputs.logprob_ranks[rows])
        part.logprob_token_ids.extend(outputs.logprob_token_ids[entries])
        part.logprobs.extend(outputs.logprobs[entries])
        first_row, first_entry = rows.stop, entries.stop
    return list(parts.values())
