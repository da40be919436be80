"""Attacks that query a model."""
