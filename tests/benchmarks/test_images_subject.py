"""Image classifiers beside other tools: the float graph sees the pixels that Arch-Net's own scoring feeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from side_by_side.recipes.onnx_runtime import open_file
from side_by_side.subject import Question
from side_by_side.subject_images import images

from archnet.sources import open_model
from tests.hf_models import make_model_folder

image_module = pytest.importorskip("PIL.Image", reason="needs Pillow")

PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 16, "width": 16},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.25, 0.25, 0.25],
}


def test_top_1_of_the_float_graph(tmp_path: Path) -> None:
    names = {0: "cat", 1: "cow", 2: "dog"}
    model = make_model_folder(tmp_path / "vit", "vit", labels=3, layers=1, id2label=names)
    (model / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    draw = np.random.default_rng(0)
    data = tmp_path / "data"
    for name in names.values():
        (data / name).mkdir(parents=True)
        for i in range(4):
            pixels = draw.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            image_module.fromarray(pixels).save(data / name / f"{i}.png")
    subject = images(Question(model, data, (data,), None, tmp_path / "cache", None))
    (graph,) = subject.folder.graphs
    forward = open_file(graph.onnx.parent, 1)
    score = subject.score({"model": forward})

    source = open_model(str(model))
    right = 0
    for label, name in names.items():
        for file in sorted((data / name).iterdir()):
            pixels = np.asarray(image_module.open(file), dtype=np.float32) / 255
            values = torch.from_numpy(((pixels - 0.5) / 0.25).transpose(2, 0, 1)[None])
            with torch.no_grad():
                right += int(source.module(pixel_values=values)["logits"].argmax()) == label
    assert score.score == pytest.approx(100 * right / 12)
    assert sorted(subject.timed["model"]["pixel_values"].shape) == [1, 3, 16, 16]
    assert len(graph.calibration) == 12
