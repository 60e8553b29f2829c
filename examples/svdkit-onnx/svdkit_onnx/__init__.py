"""svdkit's UNet as an ONNX graph, run by onnxruntime."""
