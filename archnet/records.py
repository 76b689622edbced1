"""What a finished conversion records of itself: training curves and agreement with the teacher by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from archnet.backends.base import feed, user_inputs
from archnet.blocks import Block
from archnet.converters.fold import Folded
from archnet.events import read_log
from archnet.executor import NetworkModule
from archnet.graph import QuantizedGraph
from archnet.metrics import cosine, sqnr_db
from archnet.network import Network
from archnet.reference import execute
from archnet.results import BlockAgreement, TrainingPoint
from archnet.valid import mask_of, row_masks, valid_rows

POINTS = 400
"""Points of a training curve that are kept for the report."""


def training_points(log: Path) -> tuple[list[TrainingPoint], dict[str, float]]:
    """Curves of the training stages, thinned out, and the seconds of every stage, from the log."""
    points: list[TrainingPoint] = []
    seconds: dict[str, float] = {}
    for entry in read_log(log):
        loss = entry.get("loss")
        if entry.get("event") == "stage_finished":
            seconds[str(entry["stage"])] = float(str(entry["seconds"]))
        elif isinstance(loss, (int, float)):
            points.append(_point(entry, float(loss)))
    by_stage: dict[str, list[TrainingPoint]] = {}
    for point in points:
        by_stage.setdefault(point.stage, []).append(point)
    kept = [p for group in by_stage.values() for p in group[:: max(1, len(group) // POINTS)]]
    return kept, seconds


def _point(entry: dict[str, Any], loss: float) -> TrainingPoint:
    detail = str(entry.get("detail", ""))
    homotopy = float(detail.split()[1]) if detail.startswith("homotopy ") else None
    return TrainingPoint(str(entry["stage"]), str(entry.get("block", "")), int(entry["step"]), loss, homotopy)


@torch.no_grad()
def block_agreement(
    teacher: Network,
    blocks: Sequence[Block],
    folded: Folded,
    parts: Mapping[str, QuantizedGraph],
    batch: Mapping[str, Tensor],
) -> list[BlockAgreement]:
    """Cosine and SQNR of the integer network's state after each block against the teacher's.

    Args:
        batch: the network's inputs. Only valid tokens are compared.
    """
    states = [block for block in blocks if not block.name.endswith("tail")]
    wanted = NetworkModule(teacher).eval()(batch, keep={block.output for block in states})
    carriers = {block.name: folded.values[block.output] for block in states}
    graph = next(iter(parts.values()))
    names = sorted({a.carrier for a in carriers.values() if a.carrier in graph.tensors})
    inputs = {k: batch[k].numpy() for k in user_inputs(graph)}
    integers = execute(graph, feed(graph, inputs), names)
    masks = row_masks(teacher)
    rows = []
    for block in states:
        affine = carriers[block.name]
        if affine.carrier not in integers:
            continue
        scale = graph.tensors[affine.carrier].scale or 1.0
        mask = mask_of(batch, masks[block.output])
        state = affine.apply(torch.from_numpy(integers[affine.carrier].astype(np.float32)) * scale)
        value = valid_rows(state, mask).numpy()
        reference = valid_rows(wanted[block.output], mask).numpy()
        rows.append(
            BlockAgreement(
                block.name, float(cosine(reference, value).mean()), float(sqnr_db(reference, value))
            )
        )
    return rows
