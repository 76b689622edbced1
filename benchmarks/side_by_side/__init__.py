"""One model's quantized networks, made by several tools, beside each other (benchmarks/accuracy.py).

`network_folder`, `recipe`, `child` and `recipes` run inside the tools' own Python environments, where
Arch-Net may not be installed: they import NumPy, and a tool's packages inside functions.
"""
