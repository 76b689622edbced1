"""QuantizedGraph -> the formats of other tools; the float original -> ONNX."""
