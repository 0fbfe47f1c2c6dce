"""Benchmark and evaluation harness for quantized vision-language models."""

__version__ = "0.1.0"
