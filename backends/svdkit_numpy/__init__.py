"""The readable reference backend: NumPy, float64 or float32, nothing optimised."""
