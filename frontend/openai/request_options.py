"""How the core is to treat the requests of a body: who goes first, for how long, and with whom the cache is shared.

Invariant: the tier that an answer names is the one that was used. Called by `serving.py`.
"""

from frontend.api_call import TIMEOUT_HEADER, ApiCall
from frontend.openai.protocol import MAX_INT32, MAX_TIMEOUT_S, GenerationBody
from ipc.errors import InvalidRequestError
from ipc.request_options import RequestOptions
from ipc.sampling_params import check_range

TIER_PRIORITIES = {"auto": 0, "default": 0, "flex": 10, "priority": -10}
"""Added to `priority`, of which a lower one goes first."""


def request_options(call: ApiCall, body: GenerationBody, answer_id: str) -> RequestOptions:
    """The options of a body, under the key and the names of its call.

    Raises:
        InvalidRequestError: the header is no number of seconds, or out of range.
    """
    options = call.options(answer_id)
    options["priority"] = _priority(body)
    options["flow"] = call.caller.flow(body.user)
    options["cache_salt"] = call.caller.cache_salt(body.cache_salt)
    timeout_s = asked_timeout_s(body.timeout, call)
    if timeout_s is not None:
        options["timeout_s"] = timeout_s
    return options


def asked_timeout_s(in_body: float | None, call: ApiCall) -> float | None:
    """The shorter one of the body's `timeout` and the header's; None where neither is given.

    Raises:
        InvalidRequestError: the header is no number of seconds, or out of range.
    """
    return min((timeout for timeout in (in_body, _header_timeout(call)) if timeout is not None), default=None)


def used_tier(body: GenerationBody) -> str | None:
    """What an answer says about `service_tier`; None where nobody asked."""
    return "default" if body.service_tier == "auto" else body.service_tier


def named_priority_error(error: InvalidRequestError, body: GenerationBody) -> InvalidRequestError:
    """The core's refusal of a priority, under the name of the tier where that is where it came from."""
    if body.priority or body.service_tier is None:
        return error
    return InvalidRequestError(error.message, param="service_tier", code=error.code)


def _priority(body: GenerationBody) -> int:
    priority = body.priority + TIER_PRIORITIES[body.service_tier or "default"]
    return max(-MAX_INT32 - 1, min(priority, MAX_INT32))


def _header_timeout(call: ApiCall) -> float | None:
    given = call.timeout
    if given is None:
        return None
    try:
        timeout_s = float(given)
    except ValueError:
        raise InvalidRequestError(f"{TIMEOUT_HEADER} must be a number of seconds", param=TIMEOUT_HEADER) from None
    check_range(TIMEOUT_HEADER, timeout_s, 0.001, MAX_TIMEOUT_S)
    return timeout_s
