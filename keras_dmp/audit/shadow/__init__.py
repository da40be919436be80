"""Shadow models: planning, training, and the scores of records across them."""
