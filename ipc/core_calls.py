"""Control calls to cores, and the answers that belong to each.

Owned by `ipc.client.EngineClient`. Invariant: an answer that nobody waits for any more is dropped.
"""

import asyncio
import itertools
import logging
from collections.abc import Sequence

from ipc.core_channel import CoreChannel
from ipc.core_link import CoreLink
from ipc.errors import EngineUnavailableError, ServerError
from ipc.messages import Call, CallMethod, Reply

log = logging.getLogger(__name__)

Answer = dict[str, int | float | str]


class CoreCalls:
    """The calls of one client."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Queue[tuple[str, Reply]]] = {}

    async def call(
        self,
        links: Sequence[tuple[str, CoreLink]],
        method: CallMethod,
        arguments: dict[str, int | str],
        timeout_s: float,
    ) -> dict[str, Answer]:
        """Make a call to the cores behind these links. The answers by name of the core: of all, or of those that come
        in time, if any does; the counts of two links of one name are added up.

        Raises:
            EngineUnavailableError: no answer within the time.
            ServerError: a core answered with an error.
        """
        call_id = next(self._ids)
        answers = self._answers[call_id] = asyncio.Queue()
        results: dict[str, Answer] = {}
        try:
            calling = Call(call_id, method, arguments)
            num_sent = sum(link.session.is_welcomed and link.send(calling) for _, link in links)
            if not num_sent:
                raise EngineUnavailableError("The engine accepts no messages at the moment.")
            async with asyncio.timeout(timeout_s):
                for _ in range(num_sent):
                    name, reply = await answers.get()
                    if reply.error:
                        raise ServerError(reply.error)
                    add_up(results.setdefault(name, {}), reply.result)
        except TimeoutError as error:
            if not results:
                raise EngineUnavailableError(f"no answer to {method.name} in {timeout_s} s") from error
            log.warning("not all of %d cores gave an answer to %s", num_sent, method.name)
        finally:
            del self._answers[call_id]
        return results

    def on_reply(self, channel: CoreChannel, reply: Reply) -> None:
        """An answer has come."""
        answers = self._answers.get(reply.call_id)
        if answers is not None:
            answers.put_nowait((channel.name, reply))


def add_up(result: Answer, other: Answer) -> None:
    """Add the counts of one more answer; of what is no count the last one stays."""
    for name, value in other.items():
        before = result.get(name)
        if isinstance(value, int) and isinstance(before, int):
            value += before
        result[name] = value
