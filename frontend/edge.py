"""Settings that hold for every route, whoever wrote it: found through the request, so that no endpoint can forget them.

`app` puts them on the application's state. Outside of an application (tests of a part) the defaults hold.
"""

from dataclasses import dataclass

from starlette.types import Scope

from ipc.config import FrontendConfig


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """How bodies are read and streams are sent."""

    strict_params: bool = False
    """Unknown fields of a body are refused, not only named."""
    sse_ping_interval_s: float = 0.0
    """Longest silence of a stream; 0 for any."""

    @classmethod
    def of(cls, config: FrontendConfig) -> "EdgeSettings":
        """As configured."""
        return cls(config.strict_params, config.sse_ping_interval)


def edge_settings(scope: Scope) -> EdgeSettings:
    """Those of the application that serves this request."""
    app = scope.get("app")
    settings = getattr(app.state, "edge", None) if app is not None else None
    return settings if isinstance(settings, EdgeSettings) else EdgeSettings()
