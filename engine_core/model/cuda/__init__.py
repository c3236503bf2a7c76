"""Compute on a GPU: Triton kernels, the arrays of a step that they read, and CUDA graphs of decode steps.

Imported only where the device is CUDA and Triton is installed, as torch for CUDA brings it; nothing else needs it.
Next: `attention.py`, `row_kernels.py`, `decode_graphs.py`; the network that uses them is `decoder/triton_network.py`.
"""
