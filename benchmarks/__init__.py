"""Benchmarks; each module is also a script."""
