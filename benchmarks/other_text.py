"""How near sentence embeddings are to the original's, by kind and length of text: mean cosines.

    python benchmarks/other_text.py --model all-MiniLM-L6-v2 --text sick.txt --documentation \
        --build full=m-w8a8 --build narrow=h-w8a8 --out other_text.json

A network without LayerNorm is as good as the text that it learned from is like the text that it reads, which
a score on text like the data does not show. Sentences are taken in their order; longer texts are sentences
that follow one another. Documentation is that of the Python installation, as `archnet quickstart` reads it.
Needs `pip install 'archnet[quickstart]'`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer

import archnet
from archnet.calibration.corpus import documentation_sentences
from archnet.calibration.data import load_sentences
from archnet.errors import ArchNetError

LENGTHS = (2, 16, 32, 48, 64, 96, 127)
"""Tokens: a text belongs to the first of the ranges (2, 16], (16, 32], ... that it fits in."""

DOCUMENTATION = "documentation"


def by_length(
    sentences: Sequence[str], tokenizer: Tokenizer, limit: int, ranges: Sequence[tuple[int, int]]
) -> dict[int, list[str]]:
    """At most so many texts for each range of tokens, by its end: sentences alone, or joined up to it."""
    counts = [len(encoding.ids) for encoding in tokenizer.encode_batch(list(sentences))]
    found: dict[int, list[str]] = {most: [] for _, most in ranges}
    for least, most in ranges:
        begin = 0
        while begin < len(counts) and len(found[most]) < limit:
            end, tokens = begin + 1, counts[begin]
            while tokens <= least and end < len(counts):
                tokens += counts[end] - 2  # one pair of marks is enough for all
                end += 1
            if least < tokens <= most:
                found[most].append(" ".join(sentences[begin:end]))
            begin = end
    return found


def mean_cosine(wanted: np.ndarray, got: np.ndarray) -> float:
    """Of the rows of two (texts, width) arrays, which have length 1."""
    return float((wanted * got).sum(1).mean())


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="sentence-transformers folder")
    parser.add_argument("--build", action="append", default=[], metavar="NAME=DIR", help="of Arch-Net")
    parser.add_argument("--text", type=Path, action="append", default=[], help="sentences, or files of pairs")
    parser.add_argument("--documentation", action="store_true", help="that of the Python installation too")
    parser.add_argument("--limit", type=int, default=200, help="texts of each length (default: 200)")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a table and write the JSON."""
    args = parse(arguments)
    model = SentenceTransformer(str(args.model), device="cpu")
    texts = {path.name: load_sentences(path) for path in args.text}
    if args.documentation:
        texts[DOCUMENTATION] = documentation_sentences()
    builds = dict(build.split("=", 1) for build in args.build)
    networks = {name: archnet.load(folder, backend="onnxruntime") for name, folder in builds.items()}
    tokenizer = Tokenizer.from_file(str(args.model / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    longest = min([model.max_seq_length, *(network.graph.max_sequence for network in networks.values())])
    ranges = [(least, most) for least, most in pairwise(LENGTHS) if most <= longest]
    rows = []
    print("| text | network |", *(f"{least + 1}-{most} |" for least, most in ranges))
    for kind, sentences in texts.items():
        groups = by_length(sentences, tokenizer, args.limit, ranges)
        originals = {
            most: model.encode(group, normalize_embeddings=True) for most, group in groups.items() if group
        }
        for name, network in networks.items():
            cosines = {most: mean_cosine(o, network.encode(groups[most])) for most, o in originals.items()}
            counts = {most: len(groups[most]) for most in cosines}
            rows.append({"text": kind, "network": name, "cosine": cosines, "texts": counts})
            cells = (f"{cosines[most]:.3f} |" if most in cosines else "|" for _, most in ranges)
            print(f"| {kind} | {name} |", *cells, flush=True)
    args.out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ArchNetError as error:
        sys.exit(f"error: {error.problem}\n  fix: {error.fix}")
