"""Quantization as plain data: specs, policies, layers, exact sizes. Free of torch."""
