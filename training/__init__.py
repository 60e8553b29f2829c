"""Training a small Stable Video Diffusion checkpoint on procedural clips."""
