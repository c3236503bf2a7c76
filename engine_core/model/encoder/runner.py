"""Runs steps on an encoder: whole texts in, one embedding out for each.

Made by `load.py`; the core calls `execute` once per step. The scheduler gives a text all its tokens in one step
(`ModelInfo.is_encoder`), so nothing is kept between steps. Next: `network.py`, `engine_core/model/pooling.py`.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch

from engine_core.model.encoder.network import EncoderNetwork, TextGroup
from engine_core.model.pooling import PoolingConfig, pool_texts
from engine_core.model.step_memory import within_memory
from engine_core.outputs import ModelInfo, ModelRunnerOutput, NewRequestData, SchedulerOutput


class EncoderRunner:
    """A `ModelRunner` on an encoder."""

    def __init__(self, network: EncoderNetwork, info: ModelInfo, pooling: PoolingConfig, device: torch.device) -> None:
        self._network = network
        self._info = info
        self._pooling = pooling
        self._device = device

    @property
    def info(self) -> ModelInfo:
        """Facts about the loaded model."""
        return self._info

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Compute the texts of a step; each comes as new, and whole.

        Raises:
            StepMemoryError: the memory of the device or the host did not suffice.
            ValueError: a text is not scheduled whole.
            KeyError: a request is scheduled that did not come as new.
        """
        return within_memory(lambda: self._execute(step), self._device)

    @torch.inference_mode()
    def _execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        output = ModelRunnerOutput()
        if not step.scheduled:
            return output
        texts = _texts_of(step)
        groups = group_by_length(texts)
        flat = np.concatenate([np.array(text.token_ids, dtype=np.int64) for text in texts])
        hidden = self._network.hidden_states(torch.from_numpy(flat).to(self._device), groups)
        vectors: list[list[float] | None] = []
        for group in groups:
            rows = hidden[group.start : group.end].view(group.num_texts, group.length, -1)
            vectors += pool_texts(rows, self._pooling)
        for text, vector in zip(texts, vectors, strict=True):
            if vector is None:
                output.failures[text.key] = "nan_embedding"
            else:
                output.embeddings[text.key] = vector
        return output


def _texts_of(step: SchedulerOutput) -> list[NewRequestData]:
    """The requests of a step, those of equal length side by side."""
    new = {request.key: request for request in step.new_requests}
    texts = []
    for item in step.scheduled:
        text = new[item.key]
        if item.num_computed_tokens or item.num_scheduled_tokens != len(text.token_ids):
            raise ValueError(
                f"request {item.key}: {item.num_scheduled_tokens} of {len(text.token_ids)} tokens scheduled of a text "
                "that must be computed whole"
            )
        texts.append(text)
    return sorted(texts, key=_length)


def group_by_length(texts: Sequence[NewRequestData]) -> list[TextGroup]:
    """The groups of texts in order of their length."""
    groups, start = [], 0
    for length, members in groupby(texts, key=_length):
        groups.append(TextGroup(start, len(list(members)), length))
        start = groups[-1].end
    return groups


def _length(text: NewRequestData) -> int:
    return len(text.token_ids)
