"""OpenVINO, IREE, ONNX Runtime and TVM as targets of `compile`: real compilers, tiny networks."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from c_processors import COMPILER, PROCESSORS, output_names, run_c

from archnet.backends import open_backend, static_onnx
from archnet.backends.base import feed
from archnet.backends.reference import ReferenceBackend
from archnet.backends.static_onnx import IREE, IreeBackend, OpenVinoBackend
from archnet.compiling import compile_for
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.graph import QuantizedGraph
from archnet.onnx_session import adds_in_16_bits
from archnet.operators import Op
from archnet.reference import execute
from archnet.routes.openvino import floats
from archnet.targets.toolchain import find_toolchain
from tests.archnet.test_freeze import quantized
from tests.attention_graphs import with_log_sum_softmax, with_table_softmax
from tests.builds import finished
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph
from tests.small_translation import frozen_translation
from tests.steps import STEPS, walked

SEQUENCE = 9


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find_toolchain(name).installed() is None, reason=f"needs archnet targets install {name}"
    )


def text() -> QuantizedGraph:
    return tiny_encoder(np.random.default_rng(0), hidden=32, heads=2)


NETWORKS: dict[str, Callable[[], QuantizedGraph]] = {
    "text": text,
    "table": lambda: with_table_softmax(text()),
    "logsum": lambda: with_log_sum_softmax(text()),
    "cnn": lambda: image_graph("cnn", Bits(8, 8)),
    "neighbours": lambda: quantized("neighbours", "host")[1],
    "distances": lambda: quantized("distances", "gather")[1],
}
"""The last two are MobileBERT and DeBERTa, untrained."""


def given(graph: QuantizedGraph, batch: int = 2) -> dict[str, Any]:
    if graph.inputs[0].name == "pixel_values":
        sizes = [batch if isinstance(dim, str) else dim for dim in graph.inputs[0].shape]
        return {"pixel_values": np.random.default_rng(1).integers(-128, 128, sizes).astype(np.int8)}
    return dict(random_inputs(np.random.default_rng(1), graph, batch=batch, sequence=SEQUENCE))


@pytest.mark.parametrize(
    "name", [pytest.param("openvino", marks=needs("openvino")), pytest.param("iree", marks=needs("iree"))]
)
@pytest.mark.parametrize("kind", NETWORKS)
def test_integers_in_the_runtime_are_those_of_the_reference(tmp_path: Path, name: str, kind: str) -> None:
    graph = NETWORKS[kind]()
    folder = finished(tmp_path / "build", graph)
    (summary,) = compile_for(folder, name, sequence=SEQUENCE if kind != "cnn" else None)
    assert (summary.fallback_operators, summary.fallbacks) == (0, ())
    assert summary.native_operators > 5
    assert summary.binary_bytes == sum(
        p.stat().st_size
        for p in (folder / "compiled" / name).iterdir()
        if p.suffix in (".xml", ".bin", ".vmfb")
    )
    if name == "openvino" and adds_in_16_bits():
        with pytest.raises(ArchNetError, match="this processor has no VNNI: OpenVINO adds its products"):
            open_backend(name, folder)
        return
    backend, inputs = open_backend(name, folder, threads=1), given(graph)
    shown = backend.tensors(inputs)
    expected = execute(graph, feed(graph, inputs), list(shown))
    assert len(shown) > 8
    different = {n for n in shown if not np.array_equal(shown[n], expected[n])}
    softmax = [node.output for node in graph.nodes if node.op in (Op.SOFTMAX, Op.TABLE_SOFTMAX)]
    if name == "iree" or not softmax:
        assert different == set()
        for key, value in ReferenceBackend(graph).run(inputs).items():
            np.testing.assert_allclose(backend.run(inputs)[key], value, rtol=0, atol=1e-6)
    for n in softmax:
        assert np.abs(shown[n].astype(int) - expected[n]).max() <= 1


def test_openvino_is_refused_where_its_products_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_onnx, "adds_in_16_bits", lambda: True)
    folder = finished(tmp_path / "text", text())
    with pytest.raises(ArchNetError, match=r"in 16 bits, where those of layer0\.query saturate") as caught:
        open_backend("openvino", folder)
    assert caught.value.fix == "take another --backend here (onnxruntime, tvm, iree)"
    folder = finished(tmp_path / "cnn", image_graph("cnn", Bits(4, 8)))  # fits 16 bits
    with pytest.raises(ArchNetError, match="openvino"):
        open_backend("openvino", folder)  # it is not installed, or nothing is compiled


@needs("openvino")
def test_sentences_are_padded_to_the_compiled_length_and_longer_ones_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(static_onnx, "adds_in_16_bits", lambda: False)  # not about integers
    graph = tiny_encoder(np.random.default_rng(0), pooled=False)
    folder = finished(tmp_path / "build", graph)
    with pytest.raises(ArchNetError, match="holds nothing that openvino compiled") as caught:
        open_backend("openvino", folder)
    assert caught.value.fix == "archnet compile DIR --target openvino"
    compile_for(folder, "openvino", sequence=SEQUENCE)
    backend = OpenVinoBackend.open(folder, threads=1)
    short = {name: value[:, :5] for name, value in given(graph).items()}
    outputs = backend.run(short)
    assert outputs["last_hidden_state"].shape == (2, 5, 16)
    with pytest.raises(ArchNetError, match="the input has 12 positions; the network is compiled for 9"):
        backend.run(random_inputs(np.random.default_rng(1), graph, sequence=12))
    with pytest.raises(ArchNetError, match="does not show 'nothing'"):
        backend.tensors(short, ["nothing"])


def test_products_in_float_are_fallbacks_and_other_floats_are_named() -> None:
    graph = text()
    product = next(node for node in graph.nodes if node.op is Op.LINEAR)
    nodes = [
        {"kind": "FullyConnected", "precision": "i8", "names": [f"{product.output}/exact/Gemm"]},
        {"kind": "FullyConnected", "precision": "f32", "names": [f"{product.output}/exact/Gemm"]},
        {"kind": "Softmax", "precision": "f32", "names": ["a"]},
        {"kind": "Softmax", "precision": "f32", "names": ["b"]},
        {"kind": "MatMul", "precision": "f32", "names": ["pool/total/MatMulInteger"]},
    ]
    assert floats(graph, nodes) == (
        (f"FullyConnected ({product.output}/exact/Gemm)",),
        ("1 MatMul (pool/total/MatMulInteger)", "2 Softmax"),
    )


def test_onnxruntime_joins_every_product_and_writes_an_ort_file(tmp_path: Path) -> None:
    folder = finished(tmp_path / "build", text())
    (summary,) = compile_for(folder, "onnxruntime", sequence=SEQUENCE)
    assert (summary.fallback_operators, summary.sequence, summary.binary) == (0, SEQUENCE, "model.ort")
    assert summary.float_operators == ("1 Minimum", "1 Softmax", "the outputs' scale")
    content = (folder / "compiled" / "onnxruntime" / "model.ort").read_bytes()
    assert content[4:8] == b"ORTM"
    assert "QLinearMatMul" in (folder / "compiled" / "onnxruntime.log").read_text()


def test_compile_refuses_needless_lengths(tmp_path: Path) -> None:
    folder = finished(tmp_path / "build", image_graph("cnn", Bits(8, 8)))
    with pytest.raises(ArchNetError, match="reads no tokens, so it has no --seq-len"):
        compile_for(folder, "onnxruntime", sequence=4)
    assert [p.name for p in (folder / "compiled").iterdir()] == []


def test_encoder_and_decoder_are_each_compiled_as_they_are_alone(tmp_path: Path) -> None:
    graphs = frozen_translation()[1]
    folder = finished(tmp_path / "build", graphs)
    summaries = compile_for(folder, "onnxruntime", sequence=SEQUENCE)
    assert [summary.part for summary in summaries] == ["encoder", "decoder"]
    place = Path("compiled") / "onnxruntime" / "model.onnx"
    for summary in summaries:
        alone = finished(tmp_path / summary.part, graphs[summary.part])
        (wanted,) = compile_for(alone, "onnxruntime", sequence=SEQUENCE)
        assert summary == replace(wanted, part=summary.part)
        assert (folder / summary.part / place).read_bytes() == (alone / place).read_bytes()


@pytest.mark.parametrize(
    "name", [pytest.param("openvino", marks=needs("openvino")), pytest.param("iree", marks=needs("iree"))]
)
@pytest.mark.parametrize("kind", STEPS)
def test_steps_of_decoders_have_the_integers_of_the_reference(tmp_path: Path, name: str, kind: str) -> None:
    graph, feeds = walked(kind)
    folder = finished(tmp_path / "build", graph)
    (summary,) = compile_for(folder, name)
    assert (summary.fallback_operators, summary.fallbacks) == (0, ())
    if name == "openvino" and adds_in_16_bits():
        pytest.skip("this processor has no VNNI")
    backend, reference = open_backend(name, folder), ReferenceBackend(graph)
    for fed in feeds:
        found, expected = backend.tensors(fed), reference.tensors(fed)
        assert {o.tensor for o in graph.outputs} <= found.keys()
        for tensor, value in found.items():
            np.testing.assert_array_equal(value, expected[tensor], err_msg=tensor)
        deployed, wanted = backend.run(fed), reference.run(fed)
        for output, value in wanted.items():
            np.testing.assert_allclose(deployed[output], value, rtol=1e-5, atol=1e-6, err_msg=output)


@pytest.mark.parametrize("kind", STEPS)
def test_a_step_with_a_cache_has_no_length_but_that_of_the_source(tmp_path: Path, kind: str) -> None:
    graph, _ = walked(kind)
    folder = finished(tmp_path / "build", graph)
    if kind == "translation":
        (summary,) = compile_for(folder, "onnxruntime", sequence=5)
        assert summary.sequence == 5
        return
    with pytest.raises(ArchNetError, match="takes a token at a time, with a cache of 11, so it has no --seq"):
        compile_for(folder, "onnxruntime", sequence=5)
    assert compile_for(folder, "onnxruntime")[0].sequence is None


@pytest.mark.parametrize(("target", "machine"), [("tvm-x86-64", 0x3E), ("tvm-riscv64", 0xF3)])
def test_tvm_writes_a_library_of_the_processor(tmp_path: Path, target: str, machine: int) -> None:
    pytest.importorskip("tvm", reason="needs archnet[tvm]")
    folder = finished(tmp_path / "build", text())
    (summary,) = compile_for(folder, target)
    library = (folder / "compiled" / target / "model.so").read_bytes()
    assert int.from_bytes(library[18:20], "little") == machine
    assert summary.binary_bytes == len(library)
    assert {p.name for p in (folder / "compiled" / target).iterdir()} == {
        "meta.json", "model.so", "summary.json",
    }  # fmt: skip


C_NETWORKS: dict[str, Callable[[], QuantizedGraph]] = {
    "text": lambda: text(),
    "text w4a4": lambda: tiny_encoder(np.random.default_rng(0), weight_bits=4, activation_bits=4),
    "text w2a4": lambda: tiny_encoder(np.random.default_rng(0), weight_bits=2, activation_bits=4),
    "cnn": lambda: image_graph("cnn", Bits(8, 8)),
    "cnn w2a4": lambda: image_graph("cnn", Bits(2, 4)),
}


@pytest.mark.parametrize("kind", C_NETWORKS)
def test_c_source_computes_the_integers_on_every_processor(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("tvm", reason="needs archnet[tvm]")
    pytest.importorskip("ziglang", reason="needs archnet[tvm]")
    graph = C_NETWORKS[kind]()
    folder = finished(tmp_path / "build", graph)
    compile_for(folder, "tvm-c", sequence=SEQUENCE if kind.startswith("text") else None)
    source = folder / "compiled" / "tvm-c"
    fed = feed(graph, given(graph, batch=1))
    expected = execute(graph, fed, output_names(graph))
    ran = []
    for processor in PROCESSORS:
        work = tmp_path / processor.name
        work.mkdir()
        if processor.command() is None:  # that it compiles is all that can be seen without an emulator
            objects = [*COMPILER, "-target", processor.triple, "-c", source / "model.c", source / "kernels.c"]
            subprocess.run(objects, check=True, cwd=work)
            continue
        for name, value in run_c(graph, source, work, processor, fed, expected).items():
            np.testing.assert_array_equal(value, expected[name])
            assert int(np.abs(value.astype(int)).max()) > 0
        ran.append(processor.name)
    assert ran


def test_a_processor_without_emulator_is_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    foreign = next(p for p in PROCESSORS if p.name == "riscv64")
    graph = image_graph("cnn", Bits(8, 8))
    with pytest.raises(ArchNetError, match="qemu-riscv64 is not installed") as caught:
        run_c(graph, tmp_path, tmp_path, foreign, feed(graph, given(graph, batch=1)), {})
    assert caught.value.fix == "apt-get install qemu-user"


@needs("iree")
def test_a_folder_of_another_version_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "build" / "compiled" / "iree"
    folder.mkdir(parents=True)
    (folder / IREE.binary).touch()
    (folder / "summary.json").write_text('{"tool": "iree-base-compiler 1.0"}')
    with pytest.raises(ArchNetError, match=r"was compiled by iree-base-compiler 1.0, the toolchain is iree"):
        IreeBackend(text(), folder)
