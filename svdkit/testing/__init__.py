"""Means to test svdkit and its plugins: checkpoints with random weights."""
