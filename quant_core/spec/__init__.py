"""How tensors are quantized, as plain data: specs, policies, layers, exact sizes. Free of torch."""
