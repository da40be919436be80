"""What a classifier is: its outputs, their kind, fresh copies of it."""
