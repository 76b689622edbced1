"""The two integer graphs of an encoder-decoder: against the student, on disk, and on every backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import TensorProto
from torch import Tensor

from archnet.agreement import IntegerComparison
from archnet.backends import open_backend
from archnet.backends.base import Backend, feed
from archnet.backends.reference import ReferenceBackend
from archnet.blocks import find_blocks
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.export.onnx import build_onnx, export_onnx
from archnet.graph_check import validate_graph
from archnet.integer_decoder import IntegerDecoder
from archnet.operators import Op
from archnet.parts import DECODER, ENCODER, load_parts, part_names, save_parts
from archnet.quantized_layers import QuantizedAttention
from archnet.records import block_agreement
from archnet.reference import execute
from archnet.search import generate
from archnet.storage import save_graph
from tests.small_translation import (
    LENGTH,
    SETTINGS,
    captured_translation,
    folded_translation,
    frozen_translation,
    pair_batch,
)


def decoder(family: str = "marian", bits: str = "w8a8", embedding: str = "gather") -> IntegerDecoder:
    _, graphs = frozen_translation(family, bits, embedding)
    backends = [ReferenceBackend(graphs[name]) for name in (ENCODER, DECODER)]
    return IntegerDecoder(backends[0], backends[1], graphs[DECODER])


def stepped(of: IntegerDecoder, batch: dict[str, Tensor]) -> Tensor:
    """Logits of every given target token, (batch, target tokens, vocabulary)."""
    targets = batch["decoder_input_ids"]
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    return torch.stack([of.step(targets[:, i]) for i in range(targets.shape[1])], 1)


@pytest.mark.parametrize(
    ("family", "bits", "embedding"),
    [("marian", "w8a8", "gather"), ("marian", "w8a8", "one-hot"), ("bart", "w8a8", "host"),
     ("mbart", "w8a8", "gather"), ("marian", "w4a4", "gather"), ("marian", "w2a6", "one-hot"),
     ("t5", "w4a8", "gather"), ("t5", "w4a8", "one-hot"), ("m2m_100", "w8a8", "gather"),
     ("pegasus", "w4a4", "gather")],
)  # fmt: skip
def test_steps_give_what_the_student_gives_for_the_whole_target(
    family: str, bits: str, embedding: str
) -> None:
    student, graphs = frozen_translation(family, bits, embedding)
    for graph in graphs.values():
        validate_graph(graph)
    batch = pair_batch(7)
    with torch.no_grad():
        wanted = student(batch)[student.network.outputs["logits"]]
    got = stepped(decoder(family, bits, embedding), batch)
    valid = batch["decoder_attention_mask"].bool()
    error = (got - wanted)[valid].square().mean() / wanted[valid].var()
    # Integers round where fake quantization may round the other way; few bits make each step larger.
    assert float(error) < (0.002 if bits == "w8a8" else 0.1)


def test_logits_are_accumulators_and_keys_are_handed_on_as_integers() -> None:
    _, graphs = frozen_translation()
    encoder, step = graphs[ENCODER], graphs[DECODER]
    assert [o.name for o in encoder.outputs] == ["cross_key_0", "cross_value_0"]
    assert [o.name for o in step.outputs] == ["logits", "self_key_0", "self_value_0"]
    assert all(o.integers for o in (*encoder.outputs, *step.outputs[1:]))
    (logits,) = (n for n in step.nodes if n.output == step.outputs[0].tensor)
    assert (logits.op, step.tensors[logits.output].dtype) == (Op.LINEAR, "int32")
    assert step.outputs[0].scale.shape == step.tensors[logits.output].shape[-1:]
    caches = {s.name: s.shape for s in step.inputs if s.name.startswith("cache_")}
    assert caches["cache_key_0"] == ("batch", 4, LENGTH - 1, 8)
    assert caches["cache_mask"] == ("batch", LENGTH)


@pytest.mark.parametrize("embedding", ["gather", "one-hot"])
def test_a_step_adds_the_bias_of_its_place_to_every_place_of_its_cache(embedding: str) -> None:
    student, graphs = frozen_translation("t5", "w8a8", embedding)
    (site,) = (s for s in student.network.sites if s.attributes.get("causal"))
    module, step = student.override(site.name), graphs[DECODER]
    assert isinstance(module, QuantizedAttention)
    scale = step.tensors[f"{site.name}/bias"].scale
    assert scale is not None
    table = np.rint(module.bias.detach().numpy() / scale).clip(-128, 127)
    of = decoder("t5", "w8a8", embedding)
    batch = pair_batch(7)
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    for place in range(3):
        tokens = batch["decoder_input_ids"][:, place]
        (found,) = execute(step, feed(step, of.inputs(tokens)), [f"{site.name}/bias"]).values()
        assert found.shape[1:] == (4, 1, LENGTH)
        np.testing.assert_array_equal(found[0, :, 0, :place], table[:, place, :place])
        np.testing.assert_array_equal(found[0, :, 0, -1], table[:, place, place])
        of.step(tokens)


def test_few_bits_reach_the_cache_and_what_the_encoder_hands_on() -> None:
    _, graphs = frozen_translation("marian", "w4a4")
    specs = {s.name: s for s in graphs[DECODER].inputs}
    handed = {o.name: graphs[ENCODER].tensors[o.tensor] for o in graphs[ENCODER].outputs}
    for name in ("cache_key_0", "cache_value_0", "cross_key_0", "cross_value_0"):
        assert specs[name].bits == 4
        values = (specs[name].dtype, specs[name].bits, specs[name].scale)
        assert name not in handed or values == (handed[name].dtype, handed[name].bits, handed[name].scale)


def test_parts_are_kept_in_folders_of_their_own(tmp_path: Path) -> None:
    _, graphs = frozen_translation()
    save_parts(graphs, tmp_path)
    assert part_names(tmp_path) == (ENCODER, DECODER)
    again = load_parts(tmp_path)
    assert [o.integers for o in again[DECODER].outputs] == [False, True, True]
    assert again[ENCODER].nodes == graphs[ENCODER].nodes
    save_parts({"": graphs[ENCODER]}, tmp_path / "one")
    assert list(load_parts(tmp_path / "one")) == [""]


def test_rows_are_independent_and_can_be_reordered() -> None:
    of, batch = decoder(), pair_batch(3)
    whole = stepped(of, batch)
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    targets = batch["decoder_input_ids"]
    for i in range(3):
        of.step(targets[:, i])
    of.select(torch.tensor([2, 0]))
    got = of.step(targets[[2, 0], 3])
    assert torch.equal(got, whole[[2, 0], 3])


def test_the_cache_is_full_at_the_greatest_length() -> None:
    of, batch = decoder(), pair_batch(3)
    found = generate(of, batch["input_ids"], batch["attention_mask"], SETTINGS, max_length=LENGTH)
    assert found.shape[1] <= LENGTH
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    for _ in range(LENGTH):
        assert bool(torch.isfinite(of.step(torch.tensor([5, 6, 7]))).all())


def onnx_backend(folder: Path) -> Backend:
    return open_backend("onnxruntime", folder, threads=1)


def tvm_backend(folder: Path) -> Backend:
    return open_backend("tvm", folder, threads=1)


BACKENDS = [
    pytest.param(onnx_backend, id="onnxruntime"),
    pytest.param(tvm_backend, id="tvm", marks=pytest.mark.skipif(not find_spec("tvm"), reason="no TVM")),
]


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("opened", BACKENDS)
def test_backends_have_the_reference_integers(
    opened: Callable[[Path], Backend], bits: str, tmp_path: Path
) -> None:
    _, graphs = frozen_translation("marian", bits)
    for name, graph in graphs.items():
        save_graph(graph, tmp_path / name / "graph")
        if opened is onnx_backend:
            (tmp_path / name / "onnx").mkdir()
            export_onnx(graph, tmp_path / name / "onnx" / "model.onnx")
        else:
            from archnet.export.tvm import compile_tvm, folder_name

            compile_tvm(graph, tmp_path / name / "tvm" / folder_name())
    encoder, step = (opened(tmp_path / name) for name in (ENCODER, DECODER))
    batch = pair_batch(5)
    of = IntegerDecoder(encoder, step, graphs[DECODER])
    assert torch.equal(stepped(of, batch), stepped(decoder("marian", bits), batch))
    first = IntegerComparison(graphs[ENCODER], encoder)
    first.add({name: batch[name].numpy() for name in ("input_ids", "attention_mask")})
    second = IntegerComparison(graphs[DECODER], step)
    of.start(batch["input_ids"], batch["attention_mask"], beams=1, max_length=LENGTH)
    for i in range(3):
        tokens = batch["decoder_input_ids"][:, i]
        second.add(of.inputs(tokens))
        of.step(tokens)
    exact = {Op.SOFTMAX: 1}
    for row in (*first.agreement(), *second.agreement()):
        if row.scope == "layer" or row.differing == 0:
            assert row.max_lsb <= exact.get(Op(row.op), 0), row


def test_what_is_handed_on_is_not_dequantized() -> None:
    _, graphs = frozen_translation()
    batch = pair_batch(5)
    found = ReferenceBackend(graphs[ENCODER]).run(
        {name: batch[name].numpy() for name in ("input_ids", "attention_mask")}
    )
    assert {str(value.dtype) for value in found.values()} == {"int8"}
    assert int(np.abs(found["cross_key_0"].astype(int)).max()) > 10


def test_blocks_of_both_sides_agree_with_the_teacher_they_were_made_of() -> None:
    folded = folded_translation()
    teacher = captured_translation()
    _, graphs = frozen_translation()
    batch = pair_batch(1)
    blocks = find_blocks(teacher)
    rows = block_agreement(teacher, blocks, folded, graphs, batch)
    assert [row.block for row in rows] == ["encoder block 0", "decoder block 0"]
    student, _ = frozen_translation()
    with torch.no_grad():
        wanted = student(batch)
    for block, row in zip([b for b in blocks if "tail" not in b.name], rows, strict=True):
        state = folded.values[block.output].apply(wanted[folded.values[block.output].carrier])
        original = NetworkModule(teacher)(batch)[block.output].detach()
        mask = batch["decoder_attention_mask" if "decoder" in row.block else "attention_mask"].bool()
        similarity = torch.cosine_similarity(state[mask], original[mask], dim=-1).mean()
        assert row.cosine == pytest.approx(float(similarity), abs=0.02)


def test_what_an_int32_layer_and_a_handed_on_output_must_be() -> None:
    _, graphs = frozen_translation()
    step = graphs[DECODER]
    logits = step.outputs[0]
    with pytest.raises(ArchNetError, match="output logits hands on integers, which only int8 and uint8"):
        validate_graph(replace(step, outputs=(replace(logits, integers=True), *step.outputs[1:])))
    (node,) = (n for n in step.nodes if n.output == logits.tensor)
    name = node.inputs[3]
    halved = {**step.constants, name: step.constants[name] // 2}
    with pytest.raises(ArchNetError, match="its int32 output has a multiplier"):
        validate_graph(replace(step, constants=halved))


def test_few_bits_of_the_last_layer_are_packed_in_the_onnx_file() -> None:
    _, graphs = frozen_translation("marian", "w4a4")
    model = build_onnx(graphs[DECODER])
    (made,) = (n for n in model.graph.node if n.op_type == "MatMulInteger")
    makers = {n.output[0]: n for n in model.graph.node}
    assert makers[made.input[1]].op_type == "Cast"
    source = next(i for i in model.graph.initializer if i.name == makers[made.input[1]].input[0])
    assert source.data_type == TensorProto.INT4
