"""The form that an answer must have: a grammar that the core enforces token by token.

Frontends translate the API's `response_format` and `structured_outputs` into this record; the core compiles `spec` off
the step loop and ends only that request if it cannot. Next: `engine_core/structured_output/grammar_compiler.py`.
"""

from dataclasses import dataclass
from enum import IntEnum

from ipc.errors import InvalidRequestError

MAX_SPEC_BYTES = 64 * 1024


class GrammarKind(IntEnum):
    """What `StructuredOutput.spec` is."""

    NONE = 0
    """No grammar; `spec` is empty."""
    JSON_OBJECT = 1
    """Any JSON object; `spec` is empty."""
    JSON_SCHEMA = 2
    """A JSON schema, as text."""
    REGEX = 3
    """A regular expression that the whole answer matches."""
    CHOICE = 4
    """A JSON array of strings, one of which is the answer."""
    LARK = 5
    """A grammar in llguidance's dialect of Lark."""
    LENIENT_JSON_SCHEMA = 6
    """A JSON schema, as text; keywords that cannot be enforced are left out of it, where JSON_SCHEMA is refused."""


_KINDS_WITHOUT_SPEC = frozenset({GrammarKind.NONE, GrammarKind.JSON_OBJECT})


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """A grammar of one kind, or none."""

    kind: GrammarKind = GrammarKind.NONE
    spec: str = ""

    def __bool__(self) -> bool:
        return self.kind is not GrammarKind.NONE

    def validate(self) -> None:
        """Check the size; whether the grammar is one shows when it is compiled.

        Raises:
            InvalidRequestError: there is no `spec` where there must be one, or it is too long or no valid Unicode.
        """
        if bool(self.spec) == (self.kind in _KINDS_WITHOUT_SPEC):
            raise InvalidRequestError("the grammar is empty or has no kind", param="structured_outputs")
        try:
            num_bytes = len(self.spec.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequestError("the grammar is not valid Unicode", param="structured_outputs") from error
        if num_bytes > MAX_SPEC_BYTES:
            raise InvalidRequestError(
                f"the grammar is longer than {MAX_SPEC_BYTES // 1024} KiB", param="structured_outputs"
            )


NO_STRUCTURE = StructuredOutput()
