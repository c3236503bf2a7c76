"""Runs steps on a network: flat batch in, one token or embedding per finished chunk out.

Made by `loader.py`; the core calls `execute` once per step. All scheduled tokens form one row `[1, num_tokens]`, so
prefill chunks and decodes go through the linear layers together; only attention sees requests (`attention.py`).
Logits are computed for the rows that sample (and in slices for prompt logprobs), and for no others.
Next: `input_batch.py`, `attention.py`, `sampling/batch_sampler.py`, `pooling.py`.
"""

import logging
from functools import partial
from typing import Protocol

import torch

from engine_core.model.attention import build_attention_metadata
from engine_core.model.input_batch import CachedRequest, InputBatch, StepInputs
from engine_core.model.kv_tensors import KVTensors
from engine_core.model.network import Network, flat_batch
from engine_core.model.pooling import Pooling, PoolingConfig
from engine_core.model.request_span import RequestSpan
from engine_core.model.sampling.batch_sampler import BatchSampler
from engine_core.model.sampling.token_picker import TORCH_PICKER, TokenPicker
from engine_core.model.step_memory import within_memory
from engine_core.outputs import Logprobs, ModelInfo, ModelRunnerOutput, RequestKey, SchedulerOutput

log = logging.getLogger(__name__)


class DecodeGraphs(Protocol):
    """Computes batches of decodes faster; `cuda/decode_graphs.py`."""

    def try_run(self, inputs: StepInputs) -> torch.Tensor | None:
        """`[num_tokens, hidden_size]`, valid until the next call; None for a batch that is not of decodes alone."""
        ...


class TorchModelRunner:
    """A `ModelRunner` on any `Network`."""

    def __init__(
        self,
        network: Network,
        kv_tensors: KVTensors,
        info: ModelInfo,
        pooling: PoolingConfig,
        picker: TokenPicker = TORCH_PICKER,
        decode_graphs: DecodeGraphs | None = None,
    ) -> None:
        self._network = network
        self._decode_graphs = decode_graphs
        self._pooling = pooling
        self._kv_tensors = kv_tensors
        self._info = info
        self._device = kv_tensors.device
        self._batch = InputBatch(kv_tensors.block_size, info.vocab_size, tuple(info.adapters))
        self._sampler = BatchSampler(info.eos_token_ids, info.vocab_size, self._device, picker)

    @property
    def info(self) -> ModelInfo:
        """Facts about the loaded model."""
        return self._info

    @property
    def num_requests(self) -> int:
        """Requests whose state is kept."""
        return len(self._batch)

    def execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        """Run one step: write the keys and values of every scheduled token, then sample.

        After an error nothing is known of what is kept of the step's requests: each must come again as new, or be
        dropped.

        Raises:
            StepMemoryError: the memory of the device or the host did not suffice.
            ValueError: a request is scheduled beyond its tokens or its blocks.
            KeyError: a request is scheduled that was never given as new.
        """
        return within_memory(lambda: self._execute(step), self._device)

    @torch.inference_mode()
    def _execute(self, step: SchedulerOutput) -> ModelRunnerOutput:
        self._batch.apply(step)
        output = ModelRunnerOutput()
        if not step.scheduled:
            return output
        inputs = self._batch.build(step.scheduled)
        sampling_states = [request.sampling for request in inputs.sampling_requests]
        self._sampler.begin(sampling_states)
        hidden = self._hidden_states(inputs)
        for request, span, is_last_chunk in inputs.embedding_spans:
            self._pool(request, span, hidden, is_last_chunk, output)
        prompt_logprobs = self._collect_prompt_logprobs(inputs, hidden, output)
        if sampling_states:
            rows = hidden
            if len(inputs.sampling_rows) != len(hidden):  # else each row of a batch of decodes
                rows = hidden[torch.from_numpy(inputs.sampling_rows).to(self._device)]
            self._sampler.sample(sampling_states, partial(self._network.logits, rows), output, inputs.row_token_ids)
            self._batch.append_tokens(output)
        for key, logprobs in prompt_logprobs.items():
            if key in output.sampled_token_ids:
                output.prompt_logprobs[key] = logprobs
        return output

    def _hidden_states(self, inputs: StepInputs) -> torch.Tensor:
        """`[num_tokens, hidden_size]`, valid until the next step."""
        if self._decode_graphs is not None and inputs.adapters is None:
            hidden = self._decode_graphs.try_run(inputs)
            if hidden is not None:
                return hidden
        metadata = build_attention_metadata(inputs.spans, self._kv_tensors, inputs.adapters)
        return flat_batch(self._network, inputs.input_ids, inputs.positions, metadata, self._kv_tensors)

    # --- prompt logprobs ---------------------------------------------------------------------------------------------

    def _collect_prompt_logprobs(
        self, inputs: StepInputs, hidden: torch.Tensor, output: ModelRunnerOutput
    ) -> dict[RequestKey, Logprobs]:
        """Take this step's chunks; returns what is whole now."""
        whole = {}
        for request, span, is_last_chunk in inputs.prompt_logprob_spans:
            try:
                logprobs = self._add_prompt_chunk(request, span, hidden, is_last_chunk, output)
            except Exception:  # must not take the other requests with it
                log.exception("request %d: no prompt logprobs", request.key, extra={"request_key": request.key})
                output.failures[request.key] = "sampler_error"
            else:
                if logprobs is not None:
                    whole[request.key] = logprobs
        return whole

    def _add_prompt_chunk(
        self,
        request: CachedRequest,
        span: RequestSpan,
        hidden: torch.Tensor,
        is_last_chunk: bool,
        output: ModelRunnerOutput,
    ) -> Logprobs | None:
        """Add a chunk to the prompt logprobs of a request; at the end, give them."""
        collected = request.prompt_logprobs
        assert collected is not None
        rows = hidden[span.query_start : span.query_start + span.num_queries]
        collected.add(span.num_computed_tokens, rows, self._network.logits)
        if not is_last_chunk:
            return None
        request.prompt_logprobs = None
        if collected.num_missing != 0:
            output.failures[request.key] = "incomplete_prompt_logprobs"  # a cached prefix has no hidden states
            return None
        return collected.result()

    # --- embeddings --------------------------------------------------------------------------------------------------

    def _pool(
        self,
        request: CachedRequest,
        span: RequestSpan,
        hidden: torch.Tensor,
        is_last_chunk: bool,
        output: ModelRunnerOutput,
    ) -> None:
        """Add a chunk to what an EMBED request pools; at the end, give its embedding."""
        if request.pooling is None:
            request.pooling = Pooling(self._pooling)
        request.pooling.add(hidden[span.query_start : span.query_start + span.num_queries])
        if not is_last_chunk:
            return
        if request.pooling.num_positions != len(request.token_ids):
            output.failures[request.key] = "incomplete_embedding"  # a cached prefix has no hidden states
            return
        embedding = request.pooling.result()
        if embedding is None:
            output.failures[request.key] = "nan_embedding"
        else:
            output.embeddings[request.key] = embedding
