"""Training on labelled data: tensors in memory, the loop, the state of callbacks."""
