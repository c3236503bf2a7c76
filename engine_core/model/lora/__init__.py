"""LoRA adapters in PEFT's format: low-rank changes of a decoder's matrices that requests ask for by name.

An adapter adds scale · B · (A · x) to what a matrix gives for x, for the rows of a step whose request has it.

- `targets`: the matrices that an adapter may change, by PEFT's names, and where they lie in the fused ones.
- `adapter_config`: what `adapter_config.json` says; `adapter_files`: it and the tensors, checked against the model.
  These need no torch.
- `adapter_weights`: the tensors, read and fused.
- `step_adapters`: which tokens of a step have which adapter.
- `torch_lora` adds what adapters give in plain torch; `native_lora` is what the CPU kernels take.

Invariant: a row without an adapter gets the same numbers as in a server without adapters.
"""
