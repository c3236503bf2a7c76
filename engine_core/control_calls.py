"""Which control calls may be made by whom, with which arguments; nothing else can be called.

Used by the I/O thread before a call is answered. `process` answers them: it relies on what is checked here.
"""

from pathlib import Path

from ipc.messages import Call, CallMethod, ClientRole, Reply, Welcome
from ipc.tokenizer_files import TokenizerFiles

_FOR_EVERYBODY = frozenset({CallMethod.PING, CallMethod.STATS, CallMethod.METRICS, CallMethod.TOKENIZER})
_FOR_FRONTENDS = _FOR_EVERYBODY | {CallMethod.CANCEL}
_ARGUMENTS: dict[CallMethod, dict[str, type]] = {
    CallMethod.ABORT: {"flow": str},
    CallMethod.CANCEL: {"id": str, "flow": str},
    CallMethod.TOKENIZER: {"file": str, "offset": int},
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


def answer_tokenizer(call: Call, welcome: Welcome | None) -> Reply:
    """The answer to a TOKENIZER that `why_refused` has let pass; it reads a bounded piece of a file."""
    if welcome is None:
        return Reply(call.call_id, error="the model is not loaded yet")
    file, offset = call.arguments.get("file", ""), call.arguments.get("offset", 0)
    assert isinstance(file, str)
    assert isinstance(offset, int)
    try:
        return Reply(call.call_id, TokenizerFiles(Path(welcome.tokenizer_dir)).answer(file, offset))
    except (OSError, ValueError) as error:
        return Reply(call.call_id, error=f"TOKENIZER: {error}")


def _allowed_methods(role: ClientRole) -> frozenset[CallMethod]:
    return _FOR_FRONTENDS if role is ClientRole.FRONTEND else _FOR_EVERYBODY
