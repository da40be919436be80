"""Classifiers: their outputs, labels and losses, and fresh copies of them."""
