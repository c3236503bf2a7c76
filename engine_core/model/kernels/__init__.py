"""CPU kernels: a small C++ source with a C interface, compiled at the first start.

- `build`: compiles `src/` for this processor, once; cached by content.
- `bindings`: the structs and functions of the compiled library.
- `packing`: weights in the layout that the kernels read, and their quantization.

Where nothing can be compiled, `engine_core/model/decoder/network.py` computes the same in plain torch; it is also what
the kernels are tested against. Reading order: `src/vectors.h`, `src/gemm.h`, `src/linear.h`, `src/attention.h`,
`src/decoder.cpp`, then the modules above.
"""
