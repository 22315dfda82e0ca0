"""Benchmarks, and fits against published tables."""
