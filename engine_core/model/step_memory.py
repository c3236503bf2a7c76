"""What both kinds of runners do where a step needs more memory than there is: say so, once the step's tensors are gone.

Next: `engine_core/step_retry.py`, which computes the step in parts then.
"""

from collections.abc import Callable

import torch

from engine_core.outputs import ModelRunnerOutput, StepMemoryError

_HOST_ALLOCATOR = "DefaultCPUAllocator"
"""Names itself in the RuntimeError with which torch tells that the host's memory did not suffice."""


def within_memory(execute: Callable[[], ModelRunnerOutput], device: torch.device) -> ModelRunnerOutput:
    """What `execute` gives, which runs on the device.

    Raises:
        StepMemoryError: the memory of the device or the host did not suffice.
    """
    try:
        return execute()
    except (MemoryError, torch.OutOfMemoryError) as error:
        message = _first_line(error)
    except RuntimeError as error:
        if _HOST_ALLOCATOR not in str(error):
            raise
        message = _first_line(error)
    if device.type == "cuda":  # out of the handlers, which keep the tensors of the step alive
        torch.cuda.empty_cache()
    raise StepMemoryError(message)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
