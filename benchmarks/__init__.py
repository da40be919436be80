"""Benchmarks; each module can be run as a script."""
