"""Profiling and micro-benchmarks for 1-Lipschitz neural network layers."""

__version__ = "0.1.0"

from lipbench.answer import Answer
from lipbench.api import Run, complexity, load, methods, predict, profile, verify

__all__ = ["Answer", "Run", "complexity", "load", "methods", "predict", "profile", "verify"]
