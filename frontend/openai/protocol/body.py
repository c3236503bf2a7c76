"""What all bodies have in common: strict scalars, explicit nulls, no changes after the check."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, values: Any) -> Any:
        """Explicit nulls count as absent."""
        if isinstance(values, dict):
            return {name: value for name, value in values.items() if value is not None}
        return values
