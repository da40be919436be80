"""Reads and validates user data: samples, labels, weights and groups."""
