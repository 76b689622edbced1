"""Replacements: one file an operator, each from what a chip lacks to what it has."""
