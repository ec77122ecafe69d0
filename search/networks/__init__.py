"""Networks that bitfront trains or loads itself: plain torch modules, no quantization in them."""
