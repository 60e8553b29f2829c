"""The three networks of Stable Video Diffusion, written once over the kernels of `svdkit.backend.Backend`."""
