"""Waiting for another thread, so that Ctrl-C always ends it.

Python runs signal handlers between two instructions of the main thread. A signal that comes just before that thread
blocks on a lock is seen only when the lock is free, which may be never (seen with CPython 3.11 under load). So every
wait that may be long is a row of short ones. They wait on a `SimpleQueue`, which is written in C: an interrupt inside
the Python code of a `Future` or a `Condition` can leave its lock held for ever, or released twice.
"""

from concurrent.futures import CancelledError, Future
from queue import Empty, SimpleQueue
from typing import TypeVar

from ipc.errors import EngineUnavailableError

ResultT = TypeVar("ResultT")

_INTERVAL_S = 0.25


def result_of(future: "Future[ResultT]") -> ResultT:
    """Wait for a future; raises what it failed with."""
    ended: SimpleQueue[Future[ResultT]] = SimpleQueue()
    future.add_done_callback(ended.put)
    return next_of(ended).result()


def answer_of(future: "Future[ResultT]") -> ResultT:
    """The same for what an engine answers, where only the end of the engine cancels what somebody waits for."""
    try:
        return result_of(future)
    except CancelledError:
        raise EngineUnavailableError("The engine was closed.", code="engine_stopped") from None


def next_of(queue: "SimpleQueue[ResultT]") -> ResultT:
    """Wait for the next item of a queue."""
    while True:
        try:
            return queue.get(timeout=_INTERVAL_S)
        except Empty:
            continue
