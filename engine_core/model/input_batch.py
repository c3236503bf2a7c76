"""The runner's memory between steps: tokens, block table and sampling state of every request it was given.

`model_runner.py` applies each `SchedulerOutput` here and gets the step's flat batch: the scheduled tokens of all
requests one after the other. Sampled tokens are appended by the sampler, so a decode step names no tokens.
Invariant: `num_tokens` tokens of a request are known, and its block table covers every scheduled one.
Next: `attention.py` reads the spans, `sampling/batch_sampler.py` the sampling rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine_core.model.growing_array import GrowingArray
from engine_core.model.pooling import Pooling
from engine_core.model.request_span import RequestSpan
from engine_core.model.sampling.prompt_logprobs import PromptLogprobs
from engine_core.model.sampling.state import SamplingState
from engine_core.outputs import NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.messages import Task

Int64Array = npt.NDArray[np.int64]


class CachedRequest:
    """What the runner keeps of one request."""

    __slots__ = ("block_table", "key", "pooling", "prompt_logprobs", "sampling", "task")

    def __init__(self, data: NewRequestData, vocab_size: int) -> None:
        self.key = data.key
        self.task = data.task
        self.block_table = GrowingArray(data.block_ids)
        self.sampling = SamplingState(data)
        """Its tokens, and what the sampler keeps."""
        self.prompt_logprobs: PromptLogprobs | None = None
        """Until the prompt is computed; with an output, they were reported in an earlier life."""
        if data.sampling_params.num_prompt_logprobs >= 0 and self.sampling.num_output_tokens == 0:
            prompt = self.token_ids.values
            self.prompt_logprobs = PromptLogprobs(prompt, data.sampling_params.num_prompt_logprobs, vocab_size)
        self.pooling: Pooling | None = None
        """EMBED: what is kept of its hidden states, from its first chunk on."""

    @property
    def token_ids(self) -> GrowingArray:
        """Prompt and output so far."""
        return self.sampling.token_ids


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step's flat batch of `num_tokens` tokens."""

    input_ids: Int64Array
    """`[num_tokens]`."""
    positions: Int64Array
    """`[num_tokens]`: of each token in its request."""
    spans: tuple[RequestSpan, ...]
    """One per scheduled request, in batch order."""
    sampling_rows: Int64Array
    """`[num_samples]`: the rows of the flat batch whose logits are needed."""
    sampling_requests: tuple[CachedRequest, ...]
    """The request of each sampling row; one with a draft has several rows, for positions in turn."""
    embedding_spans: tuple[tuple[CachedRequest, RequestSpan, bool], ...]
    """EMBED requests, their rows, and whether the prompt ends here."""
    prompt_logprob_spans: tuple[tuple[CachedRequest, RequestSpan, bool], ...]
    """The same of requests whose prompt logprobs are being collected."""
    row_token_ids: Sequence[int] = ()
    """The token of each sampling row; empty where no request has a draft."""


class InputBatch:
    """All requests that the runner keeps, by key."""

    def __init__(self, block_size: int, vocab_size: int) -> None:
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._requests: dict[RequestKey, CachedRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._requests

    def apply(self, step: SchedulerOutput) -> None:
        """Forget what was dropped, take in what is new, and extend the block tables."""
        for key in step.dropped_request_keys:
            self._requests.pop(key, None)
        for data in step.new_requests:
            self._requests[data.key] = CachedRequest(data, self._vocab_size)
        for scheduled in step.scheduled:
            if scheduled.new_block_ids:
                self._requests[scheduled.key].block_table.extend(scheduled.new_block_ids)

    def build(self, scheduled: Sequence[ScheduledRequest]) -> StepInputs:
        """Lay out a step; `apply` must have been called with it.

        Raises:
            ValueError: a request is scheduled beyond its tokens or its blocks.
        """
        input_ids, positions, spans = [], [], []
        sampling_rows: list[int] = []
        sampling_requests: list[CachedRequest] = []
        embedding_spans: list[tuple[CachedRequest, RequestSpan, bool]] = []
        prompt_logprob_spans: list[tuple[CachedRequest, RequestSpan, bool]] = []
        query_start, has_drafts = 0, False
        for item in scheduled:
            request = self._requests[item.key]
            span = self._span(request, item, query_start)
            end = item.num_computed_tokens + item.num_scheduled_tokens
            input_ids.append(request.token_ids.values[item.num_computed_tokens : end])
            if item.draft_token_ids:
                input_ids.append(np.array(item.draft_token_ids, dtype=np.int32))
                has_drafts = True
            positions.append(np.arange(item.num_computed_tokens, end, dtype=np.int64))
            spans.append(span)
            query_start += item.num_scheduled_tokens
            if request.task == Task.EMBED:
                embedding_spans.append((request, span, item.is_last_chunk))
                continue
            if request.prompt_logprobs is not None:
                prompt_logprob_spans.append((request, span, item.is_last_chunk))
            if item.is_last_chunk:
                num_rows = 1 + len(item.draft_token_ids)
                sampling_rows += range(query_start - num_rows, query_start)
                sampling_requests += [request] * num_rows
        flat_ids, rows = np.concatenate(input_ids).astype(np.int64), np.array(sampling_rows, dtype=np.int64)
        return StepInputs(
            flat_ids,
            np.concatenate(positions),
            tuple(spans),
            rows,
            tuple(sampling_requests),
            tuple(embedding_spans),
            tuple(prompt_logprob_spans),
            flat_ids[rows].tolist() if has_drafts else (),
        )

    def _span(self, request: CachedRequest, item: ScheduledRequest, query_start: int) -> RequestSpan:
        num_tokens = item.num_computed_tokens + item.num_scheduled_tokens
        block_ids = request.block_table.values
        num_known = len(request.token_ids) + len(item.draft_token_ids)
        has_blocks = len(block_ids) * self._block_size >= num_tokens
        if item.num_scheduled_tokens < 1 or num_tokens > num_known or not has_blocks:
            raise ValueError(
                f"request {item.key}: {num_tokens} tokens scheduled, {num_known} known, "
                f"{len(request.block_table)} blocks"
            )
        return RequestSpan(
            query_start, item.num_scheduled_tokens, item.num_computed_tokens, block_ids, self._block_size
        )
