"""What all bodies have in common: strict scalars, explicit nulls, no changes after the check.

Owns which known fields a body refuses or does without (`frontend/openai/unsupported.py`); bodies of other APIs have
tables of their own.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, model_validator

from frontend.openai.unsupported import HARMLESS_PARAMETERS, UNSUPPORTED_PARAMETERS, Unsupported

UNSUPPORTED = "unsupported"
"""Type of a validation error that is answered with `unsupported_parameter`."""


class Body(BaseModel):
    """Base of all bodies and of what they contain."""

    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    unsupported_parameters: ClassVar[Mapping[str, Unsupported]] = UNSUPPORTED_PARAMETERS
    harmless_parameters: ClassVar[Mapping[str, str]] = HARMLESS_PARAMETERS

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        """Explicit nulls count as absent."""
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values
