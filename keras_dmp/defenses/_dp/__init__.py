"""Differentially private SGD: batches, per-example gradients, accounting."""
