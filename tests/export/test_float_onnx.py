"""The float original as ONNX: the original's numbers at any batch and length, and no local paths inside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import nn

from archnet.errors import ArchNetError
from archnet.export.float_onnx import build_float_onnx, export_float_onnx
from archnet.sources import Source, open_model
from tests.hf_models import make_model_folder


def session_of(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def tokens(batch: int, sequence: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (batch, sequence), generator=generator)
    mask = torch.ones_like(ids)
    mask[1:, sequence // 2 + 1 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def sentence_encoder(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_model(
        str(make_model_folder(tmp_path_factory.mktemp("m") / "bert", "bert", pooling="mean", layers=1))
    )


@pytest.fixture(scope="module")
def exported(sentence_encoder: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("build") / "onnx" / "float.onnx"
    before = sentence_encoder.module.config._attn_implementation  # type: ignore[union-attr]
    export_float_onnx(sentence_encoder, path)
    assert sentence_encoder.module.config._attn_implementation == before  # type: ignore[union-attr]
    return path


def test_sentence_encoder_is_exported_with_its_pooling(sentence_encoder: Source, exported: Path) -> None:
    model = onnx.load(exported)
    onnx.checker.check_model(model, full_check=True)
    session = session_of(model)
    assert [output.name for output in session.get_outputs()] == ["sentence_embedding", "last_hidden_state"]
    for batch, sequence in ((1, 1), (1, 30), (3, 9)):
        inputs = tokens(batch, sequence)
        with torch.no_grad():
            states = sentence_encoder.module(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None].float()
        wanted = nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        got = session.run(None, {name: value.numpy() for name, value in inputs.items()})
        np.testing.assert_allclose(got[0], wanted.numpy(), rtol=0, atol=2e-6)
        np.testing.assert_allclose(got[1], states.numpy(), rtol=0, atol=2e-5)


def test_file_names_no_folder_of_this_machine(exported: Path) -> None:
    content = exported.read_bytes()
    assert b"site-packages" not in content
    assert str(Path.home()).encode() not in content
    assert b".py" not in content


def test_module_that_cannot_be_exported_is_named() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(60, 4)

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.table(input_ids)
            return states if float(states.sum()) > 0 else -states

    with pytest.raises(ArchNetError, match=r"PyTorch cannot export .* to ONNX") as caught:
        build_float_onnx(open_model(Branching()))
    assert "branches" in caught.value.fix
