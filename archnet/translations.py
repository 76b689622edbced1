"""The data of an encoder-decoder's distillation: the teacher's own translations of unlabelled sources.

In float, with the keys and values of earlier tokens kept; sentences of like length together.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from archnet.calibration.token_batches import pad_rows
from archnet.checkpoint import load_tensors, save_tensors
from archnet.engine import StageContext
from archnet.executor import NetworkModule
from archnet.generation import GenerationSettings
from archnet.incremental import IncrementalDecoder
from archnet.network import Network
from archnet.search import generate

Rows = list[NDArray[np.int32]]

SENTENCES = 256
"""Sources that are translated at a time."""

FILE = "translations.safetensors"


def translate_sources(
    context: StageContext,
    teacher: Network,
    sources: Sequence[NDArray[np.int32]],
    settings: GenerationSettings,
    *,
    pad_id: int,
    max_length: int,
    beams: int = 1,
) -> Rows:
    """What the decoder reads for each source: its first token and the translation without its end.

    Goes on from the stage's checkpoint when there is one.

    Args:
        sources: ids of each.
        pad_id: of the sources' padding.
        max_length: most tokens of a result.
        beams: 1 searches greedily; the length penalty is that of `settings`.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    decoder = IncrementalDecoder(NetworkModule(teacher).eval().requires_grad_(False).to(device))
    order = np.argsort([len(row) for row in sources], kind="stable")
    restored = context.load_checkpoint()
    done: Rows = [] if restored is None else _unpacked(restored[0]["ids"], restored[0]["starts"])
    tokens, since = 0, time.monotonic()
    for begin in range(len(done), len(order), SENTENCES):
        chosen = [sources[i] for i in order[begin : begin + SENTENCES]]
        ids, mask = pad_rows(chosen, max(map(len, chosen)), pad_id)
        found = generate(
            decoder, ids.to(device), mask.to(device), settings,
            max_length=max_length, num_beams=beams, length_penalty=settings.length_penalty,
        )  # fmt: skip
        done += [_without_end(row, settings) for row in found.cpu().numpy()]
        tokens += sum(len(row) for row in done[begin:])
        speed = tokens / max(1e-6, time.monotonic() - since)
        context.progress(len(done), len(order), speed=speed)
        if context.checkpoint_due() and len(done) < len(order):
            ids, starts = _packed(done)
            context.save_checkpoint({"ids": ids, "starts": starts}, {"sentences": len(done)})
    context.summary["sentences"] = len(done)
    context.summary["tokens"] = sum(map(len, done))
    rows: Rows = [np.zeros(0, np.int32)] * len(order)
    for place, row in zip(order, done, strict=True):
        rows[place] = row
    return rows


def _without_end(row: NDArray[np.int64], settings: GenerationSettings) -> NDArray[np.int32]:
    """A result up to the token before its end."""
    ends = np.flatnonzero(np.isin(row[1:], settings.ends))
    return row[: 1 + int(ends[0]) if len(ends) else len(row)].astype(np.int32)


def _packed(rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return torch.from_numpy(np.concatenate(rows)), torch.from_numpy(starts.astype(np.int64))


def _unpacked(ids: torch.Tensor, starts: torch.Tensor) -> Rows:
    flat = ids.numpy()
    return [flat[a:b] for a, b in pairwise(starts.tolist())]


def save_translations(rows: Rows, folder: Path) -> None:
    """Write ids (int32) and where each row starts (int64, one more entry: the end)."""
    ids, starts = _packed(rows)
    save_tensors(folder / FILE, {"ids": ids, "starts": starts})


def load_translations(folder: Path) -> Rows:
    """Read what `save_translations` wrote."""
    tensors = load_tensors(folder / FILE)
    return _unpacked(tensors["ids"], tensors["starts"])
