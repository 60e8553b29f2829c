"""PyTorch, on the CPU, NVIDIA and Apple GPUs and, through torch_npu, Ascend."""
