"""`GET /v1/models` and `GET /v1/models/{id}`: the names of the model, and its LoRA adapters, whose `parent` it is."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from frontend.errors import json_response
from frontend.state import FrontendState, ServedModel


class OpenAIServingModels:
    """The models endpoints."""

    def __init__(self, state: FrontendState) -> None:
        self._state = state

    async def list_models(self) -> Response:
        """All names."""
        model = self._state.model()
        return json_response(
            {"object": "list", "data": [self._card(model, name) for name in (*model.names, *model.adapters)]}
        )

    async def retrieve_model(self, request: Request) -> Response:
        """One name, which may contain slashes; raises `ModelNotFoundError` for others."""
        model = self._state.model()
        name = str(request.path_params["model_id"])
        model.check_name(name)
        return json_response(self._card(model, name))

    def _card(self, model: ServedModel, name: str) -> dict[str, Any]:
        is_adapter = bool(model.adapter_of(name))
        return {
            "id": name,
            "object": "model",
            "created": self._state.created_at,
            "owned_by": "fast-inference",
            "root": name if is_adapter else model.names[0],
            "parent": model.names[0] if is_adapter else None,
            "max_model_len": model.max_model_len,
        }
