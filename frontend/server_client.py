"""The client of a server's cores, as frontends and batch jobs have it: it knows where they are and which one to ask."""

from frontend.engine_router import EngineRouter
from ipc.client import EngineClient
from ipc.core_directory import CoreDirectory
from ipc.endpoints import RunDir
from ipc.messages import ClientRole
from ipc.recovery import CoreLossPolicy


def client_of_server(
    run_dir: RunDir, *, name: str, role: ClientRole, on_core_loss: CoreLossPolicy = CoreLossPolicy.RESUME
) -> EngineClient:
    """A client of all cores of the server on this run dir; it is not started yet."""
    return EngineClient(
        CoreDirectory(run_dir), name=name, role=role, on_core_loss=on_core_loss, placement=EngineRouter()
    )
