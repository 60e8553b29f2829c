"""The default backend: MindSpore, on Ascend NPUs and on CPUs, each with kernels of its own."""
