"""What adapters add to a linear layer, in plain torch: for the rows of each adapter, two small matrix products."""

from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from engine_core.model.lora.adapter_weights import Adapter
from engine_core.model.lora.step_adapters import StepAdapters
from engine_core.model.lora.targets import LinearName


def add_low_rank(
    outputs: torch.Tensor,
    inputs: torch.Tensor,
    adapters: Sequence[Adapter],
    step: StepAdapters,
    layer: int,
    name: LinearName,
) -> None:
    """Add to `outputs` `[num_tokens, outputs]`, which a matrix gave for `inputs` `[num_tokens, inputs]`, in place."""
    for index, rows in step.rows.items():
        part = adapters[index].layers[layer].get(name)
        if part is not None:
            at = torch.from_numpy(rows).to(outputs.device)
            outputs.index_add_(0, at, linear(linear(inputs[at], part.shrink), part.expand))
