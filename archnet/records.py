"""What a finished conversion records of itself: training curves and agreement with the teacher by block."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archnet.backends.base import feed, user_inputs
from archnet.backends.reference import ReferenceBackend
from archnet.blocks import Block
from archnet.converters.fold import Folded
from archnet.events import read_log
from archnet.executor import NetworkModule
from archnet.graph import QuantizedGraph
from archnet.integer_decoder import IntegerDecoder
from archnet.metrics import cosine, sqnr_db
from archnet.network import Network
from archnet.parts import DECODER
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


def curves_of(metrics: Mapping[str, Any], stages: Collection[str]) -> list[TrainingPoint]:
    """The curves of some stages that another build has recorded."""
    points = (TrainingPoint.from_json(point) for point in metrics.get("training") or ())
    return [point for point in points if point.stage in stages]


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
    integers = _states(parts, batch, {a.carrier for a in carriers.values()})
    masks = row_masks(teacher)
    rows = []
    for block in states:
        affine = carriers[block.name]
        if affine.carrier not in integers:
            continue
        mask = mask_of(batch, masks[block.output])
        value = affine.apply(valid_rows(integers[affine.carrier], mask)).numpy()
        reference = valid_rows(wanted[block.output], mask).numpy()
        rows.append(
            BlockAgreement(
                block.name, float(cosine(reference, value).mean()), float(sqnr_db(reference, value))
            )
        )
    return rows


def _states(
    parts: Mapping[str, QuantizedGraph], batch: Mapping[str, Tensor], wanted: Collection[str]
) -> dict[str, Tensor]:
    """Activations of the integer networks by name, dequantized; a decoder's from one step after the other."""
    found: dict[str, Tensor] = {}

    def keep(graph: QuantizedGraph, values: Mapping[str, NDArray[Any]]) -> None:
        for name, value in values.items():
            real = torch.from_numpy(value.astype(np.float32)) * (graph.tensors[name].scale or 1.0)
            found[name] = torch.cat([found[name], real], 1) if name in found else real

    whole = next((graph for name, graph in parts.items() if name != DECODER), None)
    if whole is not None:
        inputs = {name: batch[name].numpy() for name in user_inputs(whole)}
        keep(whole, execute(whole, feed(whole, inputs), [n for n in wanted if n in whole.tensors]))
    if DECODER in parts:
        step = parts[DECODER]
        encoder = None if whole is None else ReferenceBackend(whole)
        stepper = IntegerDecoder(encoder, ReferenceBackend(step), step)
        tokens = batch["decoder_input_ids"]
        source = [batch.get(name, batch[f"decoder_{name}"]) for name in ("input_ids", "attention_mask")]
        stepper.start(*source, beams=1, max_length=tokens.shape[1] + 1)
        for i in range(tokens.shape[1]):
            fed = feed(step, stepper.inputs(tokens[:, i]))
            keep(step, execute(step, fed, [n for n in wanted if n in step.tensors]))
            stepper.step(tokens[:, i])
    return found
