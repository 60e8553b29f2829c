"""Stable Video Diffusion on JAX: a backend for svdkit."""
