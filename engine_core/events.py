"""What the I/O thread and the grammar compiler tell the step loop; nothing else passes in that direction."""

from dataclasses import dataclass

from engine_core.outputs import RequestKey
from engine_core.request import ClientSlot, Request
from engine_core.structured_output.grammar import CompiledGrammar
from ipc.messages import Call


@dataclass(frozen=True, slots=True)
class AddRequest:
    """A checked request to queue."""

    request: Request


@dataclass(frozen=True, slots=True)
class AbortRequests:
    """Requests to end; they may have ended already."""

    keys: tuple[RequestKey, ...]
    is_complete: bool = False
    """Their clients have the whole answer."""
    reason: str = ""
    """Why, for metrics."""


@dataclass(frozen=True, slots=True)
class GrammarCompiled:
    """The grammar of a request is ready, or `grammar` is None and the error says why not."""

    key: RequestKey
    grammar: CompiledGrammar | None
    error_code: str = ""
    error_message: str = ""


@dataclass(frozen=True, slots=True)
class ControlCall:
    """A call to answer between two steps."""

    client_slot: ClientSlot
    call: Call


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish what runs, then stop."""


@dataclass(frozen=True, slots=True)
class DrainBegun:
    """Nothing that is accepted comes behind this."""


Event = AddRequest | AbortRequests | GrammarCompiled | ControlCall | Drain | DrainBegun
