"""Everything that touches tensors: the model, its attention over the paged KV cache, the sampler.

`loader` builds a `TorchModelRunner` from the settings; `model_runner` runs steps; `input_batch` keeps the requests'
tokens and block tables between steps; `network` says what a neural network must do, `decoder` is our own,
`transformers_network` any other; `attention` is what both attend with; `kv_tensors` is the cache's memory;
`sampling` picks tokens. `fake_runner` is the same interface without weights.

Nothing here knows the scheduler or the block pool: a step comes as an `engine_core.outputs.SchedulerOutput`.
"""
