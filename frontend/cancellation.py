"""Cancelling a request by its id, from any frontend: `POST /v1/requests/{id}/cancel`, `DELETE /v1/requests/{id}`.

Frontends know nothing of each other's requests. Each names its requests in the ADD by the ids that users know
(`external_ids`, from `api_call.py`), and the call CANCEL has the core end all that have a name, whoever sent them. The
frontend that waits for such a request then finishes it: a generated answer ends where it is, with the finish reason
`abort`; what has no partial answer fails with `RequestCancelledError`. Invariant: with API keys, a key ends only its
own requests, an admin key those of all. Next: `output_processor.py`, `engine_core/step_loop.py`.
"""

import re

from starlette.requests import Request
from starlette.responses import Response

from frontend.access import Caller, caller_of
from frontend.errors import RequestNotFoundError, json_response
from frontend.state import FrontendState
from ipc.errors import EngineUnavailableError
from ipc.messages import CallMethod, CoreState

_TIMEOUT_S = 30.0
"""The core answers between two steps, and one may take long."""
_ID = re.compile(r"[A-Za-z0-9._-]{1,256}")
_TRANSLATED = re.compile(r"(?:resp|msg)_(.+)")


class Cancellation:
    """The endpoints that end requests."""

    def __init__(self, state: FrontendState) -> None:
        self._client = state.client

    async def cancel(self, request: Request) -> Response:
        """End all that runs or waits under an id.

        Raises:
            RequestNotFoundError: nothing does, or it belongs to another key.
            EngineUnavailableError: the core does not answer.
        """
        given = str(request.path_params["request_id"])
        num_cancelled = 0
        for name in _names_of(given):
            num_cancelled += await self._cancel(name, caller_of(request))
        if not num_cancelled:
            raise RequestNotFoundError("No request with this id is running or waiting.")
        return json_response({"id": given, "object": "request.cancellation", "num_cancelled": num_cancelled})

    async def _cancel(self, external_id: str, caller: Caller) -> int:
        if self._client.state not in (CoreState.READY, CoreState.DRAINING):
            raise EngineUnavailableError("The engine is not ready; what waits for it can be cancelled when it is.")
        arguments: dict[str, int | str] = {"id": external_id}
        if caller.key_id and not caller.is_admin:
            arguments["flow"] = caller.key_id
        result = await self._client.call(CallMethod.CANCEL, arguments, _TIMEOUT_S)
        return int(result["num_cancelled"])


def _names_of(given: str) -> list[str]:
    """What the core may know a request by; the ids of translated answers are made from those of chat completions."""
    if not _ID.fullmatch(given):
        return []
    translated = _TRANSLATED.fullmatch(given)
    return [given] if translated is None else [given, f"chatcmpl-{translated[1]}"]
