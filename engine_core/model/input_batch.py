"""The runner's memory between steps: tokens, block table and sampling state of every request it was given.

`model_runner.py` applies each `SchedulerOutput` here and gets the step's flat batch: the scheduled tokens of all
requests one after the other. Sampled tokens are appended by the sampler and come back with `append_tokens`, so a decode
step names no tokens and is laid out from the arrays of `batch_rows.py`.
Invariant: the rows have as many tokens as the sampling states, and block tables cover every scheduled token.
Next: `attention.py` reads the spans, `sampling/batch_sampler.py` the sampling rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine_core.model.batch_rows import BatchRows
from engine_core.model.growing_array import GrowingArray
from engine_core.model.lora.step_adapters import NO_ADAPTER, StepAdapters
from engine_core.model.pooling import Pooling
from engine_core.model.request_span import RequestSpan
from engine_core.model.sampling.prompt_logprobs import PromptLogprobs
from engine_core.model.sampling.state import SamplingState
from engine_core.model.step_spans import StepSpans
from engine_core.outputs import ModelRunnerOutput, NewRequestData, RequestKey, ScheduledRequest, SchedulerOutput
from ipc.messages import Task

Int64Array = npt.NDArray[np.int64]


class CachedRequest:
    """What the runner keeps of one request."""

    __slots__ = ("key", "pooling", "prompt_logprobs", "row", "sampling", "task")

    def __init__(self, data: NewRequestData, vocab_size: int) -> None:
        self.key = data.key
        self.task = data.task
        self.row = -1
        """Of `BatchRows`, where its blocks and its last token are."""
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
    spans: StepSpans
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
    adapters: StepAdapters | None = None
    """None where no token has one."""


class InputBatch:
    """All requests that the runner keeps, by key."""

    def __init__(self, block_size: int, vocab_size: int, adapters: Sequence[str] = ()) -> None:
        """`adapters`: the names of those that the network has, in its order."""
        self._adapter_indices = {"": NO_ADAPTER, **{name: index for index, name in enumerate(adapters)}}
        self._block_size = block_size
        self._vocab_size = vocab_size
        self._requests: dict[RequestKey, CachedRequest] = {}
        self._rows = BatchRows()

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, key: RequestKey) -> bool:
        return key in self._requests

    def apply(self, step: SchedulerOutput) -> None:
        """Forget what was dropped, take in what is new, and extend the block tables."""
        for key in step.dropped_request_keys:
            self._drop(key)
        for data in step.new_requests:
            self._drop(data.key)
            request = CachedRequest(data, self._vocab_size)
            adapter = self._adapter_indices[data.adapter]
            request.row = self._rows.add(data.token_ids, data.block_ids, adapter)
            self._requests[data.key] = request
        for scheduled in step.scheduled:
            if scheduled.new_block_ids:
                self._rows.extend_blocks(self._requests[scheduled.key].row, scheduled.new_block_ids)

    def append_tokens(self, output: ModelRunnerOutput) -> None:
        """The requests' tokens were sampled, and the sampler's states have them."""
        sampled = output.sampled_token_ids
        if sampled:
            self._rows.append_tokens([self._requests[key].row for key in sampled], list(sampled.values()))
        for key, token_ids in output.further_token_ids.items():
            for token_id in token_ids:
                self._rows.append_tokens([self._requests[key].row], [token_id])

    def build(self, scheduled: Sequence[ScheduledRequest]) -> StepInputs:
        """Lay out a step; `apply` must have been called with it.

        Raises:
            ValueError: a request is scheduled beyond its tokens or its blocks.
        """
        requests = [self._requests[item.key] for item in scheduled]
        spans = StepSpans(
            np.array([item.num_scheduled_tokens for item in scheduled], dtype=np.int32),
            np.array([item.num_computed_tokens for item in scheduled], dtype=np.int32),
            np.array([request.row for request in requests], dtype=np.int64),
            self._rows.block_table,
            self._block_size,
        )
        self._check(scheduled, spans)
        input_ids = self._input_ids(scheduled, requests, spans)
        sampling_rows: list[int] = []
        sampling_requests: list[CachedRequest] = []
        embedding_spans: list[tuple[CachedRequest, RequestSpan, bool]] = []
        prompt_logprob_spans: list[tuple[CachedRequest, RequestSpan, bool]] = []
        query_end, has_drafts = 0, False
        for index, (item, request) in enumerate(zip(scheduled, requests, strict=True)):
            query_end += item.num_scheduled_tokens
            if request.task is Task.EMBED:
                embedding_spans.append((request, spans[index], item.is_last_chunk))
                continue
            if request.prompt_logprobs is not None:
                prompt_logprob_spans.append((request, spans[index], item.is_last_chunk))
            if item.draft_token_ids:
                num_rows, has_drafts = 1 + len(item.draft_token_ids), True
                sampling_rows += range(query_end - num_rows, query_end)
                sampling_requests += [request] * num_rows
            elif item.is_last_chunk:
                sampling_rows.append(query_end - 1)
                sampling_requests.append(request)
        rows = np.array(sampling_rows, dtype=np.int64)
        return StepInputs(
            input_ids,
            spans.positions,
            spans,
            rows,
            tuple(sampling_requests),
            tuple(embedding_spans),
            tuple(prompt_logprob_spans),
            input_ids[rows].tolist() if has_drafts else (),
            self._step_adapters(spans),
        )

    def _step_adapters(self, spans: StepSpans) -> StepAdapters | None:
        adapters = self._rows.adapters[spans.rows]
        if (adapters == NO_ADAPTER).all():
            return None
        return StepAdapters(adapters if spans.are_single else np.repeat(adapters, spans.num_queries))

    def _drop(self, key: RequestKey) -> None:
        request = self._requests.pop(key, None)
        if request is not None:
            self._rows.remove(request.row)

    def _check(self, scheduled: Sequence[ScheduledRequest], spans: StepSpans) -> None:
        num_known = self._rows.num_tokens[spans.rows]
        if not spans.are_single:
            num_known += np.array([len(item.draft_token_ids) for item in scheduled], dtype=np.int32)
        num_slots = self._rows.num_blocks[spans.rows] * self._block_size
        is_wrong = (spans.num_queries < 1) | (spans.num_tokens > np.minimum(num_known, num_slots))
        if is_wrong.any():
            index = int(np.flatnonzero(is_wrong)[0])
            raise ValueError(
                f"request {scheduled[index].key}: {spans.num_tokens[index]} tokens scheduled, "
                f"{num_known[index]} known, {num_slots[index] // self._block_size} blocks"
            )

    def _input_ids(
        self, scheduled: Sequence[ScheduledRequest], requests: Sequence[CachedRequest], spans: StepSpans
    ) -> Int64Array:
        """`[num_tokens]`: of decodes from the arrays, of all others from the requests' own tokens."""
        last_token_ids = self._rows.last_token_ids[spans.rows].astype(np.int64)
        is_decode = (spans.num_queries == 1) & (spans.num_tokens == self._rows.num_tokens[spans.rows])
        if is_decode.all():
            return last_token_ids
        input_ids = np.empty(int(spans.num_queries.sum()), dtype=np.int64)
        input_ids[spans.query_starts[is_decode]] = last_token_ids[is_decode]
        for index in np.flatnonzero(~is_decode).tolist():
            item, start = scheduled[index], int(spans.query_starts[index])
            end, num_drafts = start + item.num_scheduled_tokens, len(item.draft_token_ids)
            first, last = item.num_computed_tokens, int(spans.num_tokens[index]) - num_drafts
            input_ids[start : end - num_drafts] = requests[index].token_ids.values[first:last]
            input_ids[end - num_drafts : end] = item.draft_token_ids
        return input_ids
