"""What is done element by element on processors, as loops over NumPy arrays that Numba compiles.

Backends that compute on processors take these for what comes between their framework's matrix products: each loop goes
through memory once, while a framework's operators each go through all of it. Arrays are C-contiguous and float32, and
results are written to arrays that the caller hands in, since only its framework knows where memory is warm.
"""
