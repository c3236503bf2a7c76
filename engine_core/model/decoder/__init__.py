"""Decoders of the Llama family: one network for all of them, driven by the model's config.

- `config`: what such a model may look like; which `config.json` it fits.
- `families`: in what the architectures differ, with `windows` (how far back a layer sees) and `rope_config` (which
  rotary embeddings a config asks for).
- `rope`: rotary embedding tables of every type that these models use.
- `checkpoint`: the tensors that the files must have; `weights`: these, fused and named alike for all families.
- `network`: the forward pass in plain torch: any device, and the reference of
- `native_network`: the forward pass on the CPU kernels; `triton_network`: on a GPU. What all three have in common is in
  `decoder_base`.

Reading order: as listed.
"""
