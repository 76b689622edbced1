"""Image classifiers, scored by top-1 accuracy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from archnet.calibration.image_files import PictureSet, load_pictures
from archnet.classify import PIXELS, PictureScorer
from archnet.export.float_onnx import export_float_onnx
from archnet.sources import open_model
from archnet.tasks import load_task
from archnet.tasks.images import METRIC
from side_by_side.network_folder import Calibration
from side_by_side.store import key_of
from side_by_side.subject import EXAMPLES, Question, Subject, digest_of, network_folder


def images(question: Question) -> Subject:
    """Folders or archives of pictures; the folder that a picture lies in is its label.

    Raises:
        ArchNetError: the model or the pictures cannot be used.
    """
    source = open_model(str(question.model))
    settings = source.require_images()
    pictures = load_pictures(question.calibration, settings).pixels
    count = min(question.limit or EXAMPLES, EXAMPLES, len(pictures))
    chosen = np.random.default_rng(0).permutation(len(pictures))[:count]
    graphs = {"model": Calibration({PIXELS: settings.normalise(pictures[chosen])}, {}, {})}

    def make(place: Path) -> dict[str, Calibration]:
        export_float_onnx(source, place / "model.onnx")
        return graphs

    folder = network_folder(question.cache, source.name, digest_of(source, graphs), make)
    task = load_task("images", list(question.data))
    sets = tuple(_cut(load_pictures(place, settings), question.limit) for place in task.places)
    named = source.config.get("id2label")
    names = {int(k): str(v) for k, v in named.items()} if isinstance(named, dict) else {}
    scorer = PictureScorer(task, settings, sets, names)
    return Subject(
        folder=folder,
        source_sha256=source.sha256,
        metric=METRIC,
        data=", ".join(pictures.name for pictures in sets),
        data_key=key_of(task="images", sets=[(s.sha256, len(s.pixels)) for s in sets]),
        score=lambda runs: scorer.score(runs["model"], lambda done, total: None),
        score_ours=lambda build, runs: scorer.score(runs["model"], lambda done, total: None),
        timed={"model": {PIXELS: graphs["model"].arrays[PIXELS][:1]}},
        shape="1 picture",
    )


def _cut(pictures: PictureSet, limit: int | None) -> PictureSet:
    """An even choice of so many pictures: the first ones are all of one class."""
    if limit is None or limit >= len(pictures.pixels):
        return pictures
    kept = np.linspace(0, len(pictures.pixels) - 1, limit).astype(int)
    folders = tuple(pictures.folders[i] for i in kept)
    return replace(pictures, pixels=pictures.pixels[kept], folders=folders)
