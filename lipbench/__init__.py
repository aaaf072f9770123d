"""Profiling and micro-benchmarks for 1-Lipschitz neural network layers."""

__version__ = "0.1.0"
