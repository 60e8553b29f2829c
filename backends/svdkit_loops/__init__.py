"""The network's kernels on processors in float32, and some in bfloat16, as loops over NumPy arrays that Numba compiles.

Backends whose tensors share their memory with NumPy take them: products are of matrices as this network has them, and
each loop goes through memory once, while a framework's operators each go through all of it. Arrays are C-contiguous,
and results are written to arrays that the caller hands in.
"""
