"""Quantized networks in the formats of other runtimes. The home of onnx and onnxruntime."""
