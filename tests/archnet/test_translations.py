"""The teacher's translations as data: what transformers gives, and the same after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from archnet import translations
from archnet.calibration.pair_batches import NEXT_IDS, UNKNOWN, PairBatches
from archnet.engine import StageContext
from archnet.sources.writer import generation_settings
from archnet.translations import load_translations, save_translations, translate_sources
from tests.hf_writers import PAD, make_translation_model
from tests.small_translation import LENGTH, captured_translation


class Kept:
    """A stage's context in memory, which is stopped after so many checkpoints."""

    def __init__(self, stop_after: int = 10**9) -> None:
        self.summary: dict[str, Any] = {}
        self.saved: Any = None
        self.left, self.seen = stop_after, list[int]()

    def load_checkpoint(self) -> Any:
        return self.saved

    def progress(self, step: int, steps: int, **rest: Any) -> None:
        self.seen.append(step)

    def checkpoint_due(self) -> bool:
        return True

    def save_checkpoint(self, tensors: Any, state: Any) -> None:
        self.saved = ({k: v.clone() for k, v in tensors.items()}, state)
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def sources() -> list[np.ndarray[Any, np.dtype[np.int32]]]:
    rng = np.random.default_rng(0)
    return [rng.integers(5, 90, int(n)).astype(np.int32) for n in rng.integers(2, 10, 11)]


def translated(context: Kept, beams: int = 1) -> translations.Rows:
    settings, _ = generation_settings(make_translation_model(layers=1, end_bias=2.0), "tiny")
    return translate_sources(
        cast(StageContext, context), captured_translation(), sources(), settings,
        pad_id=PAD, max_length=LENGTH, beams=beams,
    )  # fmt: skip


@pytest.mark.parametrize("beams", [1, 4])
def test_translations_are_those_of_transformers(beams: int) -> None:
    model: Any = make_translation_model(layers=1, end_bias=2.0)
    for source, row in zip(sources(), translated(Kept(), beams), strict=True):
        ids = torch.from_numpy(source.astype(np.int64))[None]
        wanted = model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_length=LENGTH, num_beams=beams
        )[0]
        kept = wanted[:-1] if int(wanted[-1]) == 2 else wanted
        assert row.tolist() == kept.tolist()


def test_a_killed_stage_goes_on_and_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translations, "SENTENCES", 3)
    wanted = translated(Kept())
    context = Kept(stop_after=2)
    with pytest.raises(KeyboardInterrupt):
        translated(context)
    assert context.saved[1] == {"sentences": 6}
    context.seen.clear()
    got = translated(context)
    assert context.seen == [9, 11]
    assert [row.tolist() for row in got] == [row.tolist() for row in wanted]
    assert context.summary["sentences"] == 11


def test_translations_on_disk(tmp_path: Path) -> None:
    rows = translated(Kept())
    save_translations(rows, tmp_path)
    assert [row.tolist() for row in load_translations(tmp_path)] == [row.tolist() for row in rows]


def test_pairs_are_padded_to_the_longer_side() -> None:
    given, made = sources(), translated(Kept())
    batches = PairBatches(
        given, made, pad_ids=(PAD, PAD), max_length=LENGTH, batch_size=4, seed=0, buckets=(8,)
    )
    assert batches.shapes == (8, LENGTH)
    seen = set()
    for step in range(batches.batches_per_epoch):
        batch = batches.batch(step)
        assert batch["input_ids"].shape == batch["decoder_input_ids"].shape
        for row in range(4):
            source = batch["input_ids"][row][batch["attention_mask"][row].bool()]
            target = batch["decoder_input_ids"][row][batch["decoder_attention_mask"][row].bool()]
            index = next(i for i, s in enumerate(given) if s.tolist() == source.tolist())
            assert made[index].tolist() == target.tolist()
            seen.add(index)
    assert seen == set(range(len(given)))


def test_pairs_tell_what_follows_each_token() -> None:
    given = [np.array([5, 6, 2], np.int32), np.array([7, 2], np.int32)]
    made = [np.array([0, 8, 9], np.int32), np.arange(10, 16, dtype=np.int32)]  # the second one was cut
    batches = PairBatches(
        given, made, pad_ids=(PAD, PAD), end=2, max_length=6, batch_size=2, seed=0, buckets=(6,)
    )
    batch = batches.batch(0)
    rows = {int(ids[0]): following.tolist() for ids, following in zip(
        batch["decoder_input_ids"], batch[NEXT_IDS], strict=True)}  # fmt: skip
    unknown = [UNKNOWN] * 3
    assert rows == {0: [8, 9, 2, *unknown], 10: [11, 12, 13, 14, 15, UNKNOWN]}
