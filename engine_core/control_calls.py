"""Which control calls may be made by whom, with which arguments; nothing else can be called.

Used by the I/O thread before a call is answered. `process` answers them: it relies on what is checked here.
"""

from ipc.messages import Call, CallMethod, ClientRole

_FOR_EVERYBODY = frozenset({CallMethod.PING, CallMethod.STATS, CallMethod.METRICS})
_FOR_FRONTENDS = _FOR_EVERYBODY | {CallMethod.CANCEL}
_ARGUMENTS: dict[CallMethod, dict[str, type]] = {
    CallMethod.ABORT: {"flow": str},
    CallMethod.CANCEL: {"id": str, "flow": str},
}
"""Arguments and their types; methods that are not here take none."""
_REQUIRED: dict[CallMethod, str] = {CallMethod.CANCEL: "id"}
"""The argument without which a call means nothing."""


def why_refused(call: Call, role: ClientRole) -> str:
    """What is wrong with a call, for whoever made it; empty if nothing is."""
    method = call.method
    if role is not ClientRole.ADMIN and method not in _allowed_methods(role):
        return f"{method.name} is for administrators"
    allowed = _ARGUMENTS.get(method, {})
    for name, value in call.arguments.items():
        if name not in allowed:
            return f"{method.name} takes no argument '{name}'"
        if not isinstance(value, allowed[name]):
            return f"the argument '{name}' of {method.name} must be of type {allowed[name].__name__}"
    required = _REQUIRED.get(method)
    if required is not None and not call.arguments.get(required):
        return f"{method.name} needs the argument '{required}'"
    return ""


def _allowed_methods(role: ClientRole) -> frozenset[CallMethod]:
    return _FOR_FRONTENDS if role is ClientRole.FRONTEND else _FOR_EVERYBODY
