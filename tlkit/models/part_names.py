"""The names of the parts of layers that may be trained; importing this module loads no Keras."""

PARTS = ("all", "bias", "norm", "kernel")
"""Values of arguments called `train`: all weights, biases, normalisation, or kernels."""
