"""Triton kernels for the hot spots of 1-Lipschitz layers."""
