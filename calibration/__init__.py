"""Unlabelled data, ranges, learned steps and the arithmetic of quantization."""
