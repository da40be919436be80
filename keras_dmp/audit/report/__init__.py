"""What an audit found: reports, comparisons, and how they are written."""
