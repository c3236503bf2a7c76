"""What all sections of the settings have in common (`config.py`, `endpoint_config.py`, `ray_config.py`)."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """Base of all sections: frozen; a child ignores the keys of other sections."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())
