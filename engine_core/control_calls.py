"""Which control calls may be made by whom, with which arguments; nothing else can be called.

Used by the I/O thread before a call is answered. `process` answers them: it relies on what is checked here.
"""

from ipc.messages import Call, CallMethod, ClientRole

_FOR_EVERYBODY = frozenset({CallMethod.PING, CallMethod.STATS})
_ARGUMENTS: dict[CallMethod, dict[str, type]] = {CallMethod.ABORT: {"flow": str}}
"""Optional arguments and their types; methods that are not here take none."""


def why_refused(call: Call, role: ClientRole) -> str:
    """What is wrong with a call, for whoever made it; empty if nothing is."""
    method = call.method
    if method not in _FOR_EVERYBODY and role is not ClientRole.ADMIN:
        return f"{method.name} is for administrators"
    allowed = _ARGUMENTS.get(method, {})
    for name, value in call.arguments.items():
        if name not in allowed:
            return f"{method.name} takes no argument '{name}'"
        if not isinstance(value, allowed[name]):
            return f"the argument '{name}' of {method.name} must be of type {allowed[name].__name__}"
    return ""
