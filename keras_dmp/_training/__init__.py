"""Training on labelled data: batches in memory, the training loop and the state of callbacks."""
