"""Figures of attacks on plain arrays: NumPy and SciPy only."""
