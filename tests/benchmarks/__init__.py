"""benchmarks/: what a user runs to compare, tested on tiny models."""
