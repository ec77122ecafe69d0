"""Compiled loops (numba): one pass over memory per format. They give the bits of the eager code in `quant_core.codecs`."""
