"""What users hand in, read and checked once."""
