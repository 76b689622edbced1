"""benchmarks/other_text.py: texts by length, and cosines with the original, on a tiny sentence encoder."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from archnet import convert
from tests.hf_models import SENTENCES, make_model_folder, make_tokenizer
from tests.integration.tiny import short_presets, text, write_target

pytest.importorskip("sentence_transformers", reason="needs archnet[quickstart]")

import other_text


def test_texts_are_sentences_or_such_as_follow_one_another() -> None:
    tokenizer = make_tokenizer("bert")
    ranges = list(pairwise(other_text.LENGTHS))
    found = other_text.by_length(text(), tokenizer, 7, ranges)
    assert list(found) == [16, 32, 48, 64, 96, 127]
    whole = " ".join(text())
    for least, most in ranges:
        assert found[most]
        assert len(found[most]) <= 7
        for joined in found[most]:
            assert joined in whole
            assert least < len(tokenizer.encode(joined).ids) <= most
    assert found[16][0] == SENTENCES[0]
    assert other_text.by_length([], tokenizer, 7, ranges)[16] == []


def test_cosines_are_those_of_the_embeddings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sentence_transformers import SentenceTransformer

    from archnet import load

    model = make_model_folder(tmp_path / "tiny", layers=1, pooling="mean")
    with short_presets(6, 2):
        target = write_target(tmp_path)
        build = convert(str(model), text(), target=str(target), out=tmp_path / "build", seq_len=24)
    file = tmp_path / "lines.txt"
    file.write_text("\n".join(text()))
    out = tmp_path / "out.json"
    other_text.main(
        [
            "--model",
            str(model),
            "--build",
            f"b={build}",
            "--text",
            str(file),
            "--limit",
            "5",
            "--out",
            str(out),
        ]
    )
    (row,) = json.loads(out.read_text())
    assert list(row["cosine"]) == ["16"]  # the network takes no more than 24 tokens
    assert (row["text"], row["network"], row["texts"]["16"]) == ("lines.txt", "b", 5)
    texts = other_text.by_length(text(), make_tokenizer("bert"), 5, [(2, 16)])[16]
    a, b = SentenceTransformer(str(model), device="cpu").encode(texts), load(build).encode(texts)
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert row["cosine"]["16"] == pytest.approx(cosines.mean(), abs=1e-4)
    assert f"| lines.txt | b | {row['cosine']['16']:.3f} |" in capsys.readouterr().out
