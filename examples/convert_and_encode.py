"""Convert a sentence encoder to int8, load the result, and compare it with the original.

    python examples/convert_and_encode.py MODEL SENTENCES OUT

MODEL is a sentence-transformers folder, SENTENCES a text file with one sentence a line, OUT the build
folder. Stopped or killed, the same command goes on.
"""

from __future__ import annotations

import sys

import archnet


def main(model: str, sentences: str, out: str) -> None:
    """Convert, then print how alike a few sentences are on two backends."""
    archnet.convert(model, sentences, target="archnet", bits="w8a8", out=out, preset="fast")
    texts = ["A man plays a guitar.", "Someone is making music.", "The train leaves at noon."]
    for backend in ("reference", "onnxruntime"):
        vectors = archnet.load(out, backend=backend).encode(texts)  # (3, width) float32, unit length
        print(backend, (vectors @ vectors.T).round(3).tolist())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        main(*sys.argv[1:])
    except archnet.ArchNetError as error:
        sys.exit(str(error))
