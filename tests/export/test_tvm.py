"""The TVM library computes the reference executor's integers: every tensor, 0 LSB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from archnet.backends.base import feed
from archnet.errors import ArchNetError
from archnet.export.tvm import TARGETS, compile_tvm, folder_name
from archnet.export.tvm_target import linker
from archnet.graph import GraphOutput, QuantizedGraph
from archnet.operators import Op
from archnet.reference import execute
from tests.graphs import random_inputs, tiny_encoder

tvm = pytest.importorskip("tvm")

# With these three networks every operator and every form of the embedding occurs; widths of 20 and
# 24 are divided by no vector register, 18 not even by the four bytes of a dot product.
NETWORKS: dict[str, dict[str, Any]] = {
    "pooled": {},
    "tokens": {"pooled": False, "embedding": "one_hot", "activation": "gelu", "concat": True, "hidden": 20},
    "codes": {"embedding": "code", "hidden": 24, "heads": 3, "layers": 2},
    "host-rows": {"embedding": "host", "hidden": 18},
    # Heads as wide as two registers, and more positions than a tile of scores holds.
    "wide": {"hidden": 64, "max_sequence": 70},
    "w4a4": {"weight_bits": 4, "activation_bits": 4, "embedding": "one_hot", "hidden": 64, "layers": 2},
    "mixed": {"weight_bits": 2, "activation_bits": (3, 4, 6, 8), "pooled": False, "activation": "gelu"},
}


def network(name: str) -> QuantizedGraph:
    return tiny_encoder(np.random.default_rng(7), **NETWORKS[name])


def compile_and_compare(
    graph: QuantizedGraph, folder: Path, isa_name: str, cpu: str, *, tensors: bool
) -> Path:
    """Compile with one instruction set and compare all that the library returns with the reference."""
    from tvm import relax

    from archnet.export.tvm_isa import ISAS
    from archnet.export.tvm_module import build_module, result_names

    isa = next(isa for isa in ISAS if isa.name == isa_name)
    target = tvm.target.Target({"kind": "llvm", "mcpu": cpu})
    path = folder / f"{graph.name}-{graph.max_sequence}-{isa_name}.so"
    link = linker(os.uname().machine)
    executable = tvm.compile(build_module(graph, isa, tensors=tensors), target=target)
    executable.export_library(str(path), fcompile=lambda library, objects, **_: link(library, objects))
    run = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]
    names = result_names(graph, tensors=tensors)
    for batch, sequence in [(1, 1), (2, 7), (3, graph.max_sequence)]:
        fed = feed(
            graph, random_inputs(np.random.default_rng(sequence), graph, batch=batch, sequence=sequence)
        )
        expected = execute(graph, fed, names)
        results = run(*(tvm.runtime.tensor(fed[spec.name]) for spec in graph.inputs))
        for name, result in zip(names, results, strict=True):
            np.testing.assert_array_equal(result.numpy(), expected[name], err_msg=f"{name} {isa_name}")
            assert result.numpy().dtype == expected[name].dtype
    return path


def host_isa() -> tuple[str, str]:
    """This machine's instruction set for products, and its processor's name."""
    from archnet.export.tvm_isa import choose_isa
    from archnet.export.tvm_target import find_processor

    processor = find_processor("host")
    return choose_isa(tvm.target.Target(processor.tvm_target())).name, processor.cpu


@pytest.mark.parametrize("tensors", [False, True], ids=["fused", "every-tensor"])
@pytest.mark.parametrize("name", NETWORKS)
def test_integers_equal_the_reference(name: str, tensors: bool, tmp_path: Path) -> None:
    from archnet.export.tvm_isa import choose_isa
    from archnet.export.tvm_target import find_processor

    processor = find_processor("host")
    isa = choose_isa(tvm.target.Target(processor.tvm_target()))
    compile_and_compare(network(name), tmp_path, isa.name, processor.cpu, tensors=tensors)


def with_odd_weights(graph: QuantizedGraph) -> QuantizedGraph:
    """Weights of 2 bits as -3, -1, 1 and 3; a gathered table as multiples of 16, 4 bits wide."""
    constants = dict(graph.constants)
    nodes = []
    for node in graph.nodes:
        if node.op is Op.LINEAR:
            constants[node.inputs[1]] = constants[node.inputs[1]] * np.int8(2) + np.int8(1)
        elif node.op is Op.EMBEDDING:
            constants[node.inputs[1]] = (constants[node.inputs[1]] // 16 * 16).astype(np.int8)
            node = replace(node, attributes={"weight_bits": 4, "step": 16})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes), constants=constants)


def test_packed_constants_are_unpacked_by_the_kernels(tmp_path: Path) -> None:
    """Two bits that are odd numbers, and a table of 4-bit rows, in a library that is smaller for it."""
    from archnet.packed_constants import packed_constants

    sizes = []
    for bits in (2, 8):
        graph = tiny_encoder(np.random.default_rng(7), hidden=96, vocab=2000, weight_bits=bits)
        if bits == 2:
            graph = with_odd_weights(graph)
            layers = sum(node.op in (Op.LINEAR, Op.EMBEDDING) for node in graph.nodes)
            assert len(packed_constants(graph)) == layers
        folder = tmp_path / str(bits)
        folder.mkdir()
        sizes.append(compile_and_compare(graph, folder, *host_isa(), tensors=False).stat().st_size)
    packed = 2000 * 96 // 2 + (12 * 96 * 96) * 3 // 4
    assert sizes[0] < sizes[1] - 0.9 * packed


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="instructions of x86")
@pytest.mark.parametrize(
    ("isa", "cpu", "feature"),
    [("generic", "x86-64", "sse2"), ("avx2", "x86-64-v3", "avx2"), ("avxvnni", "alderlake", "avxvnni")],
)
def test_other_instruction_sets_give_the_same_integers(
    isa: str, cpu: str, feature: str, tmp_path: Path
) -> None:
    from archnet.export.tvm_target import host_features

    if not host_features().get(feature):
        pytest.skip(f"this processor has no {feature}")
    for name in ("codes", "wide", "w4a4"):
        compile_and_compare(network(name), tmp_path, isa, cpu, tensors=False)


def test_softmax_at_the_end_of_its_range(tmp_path: Path) -> None:
    """1024 equal weights of 2**20: the greatest sum and numerators that the fixed-point quotient
    meets, and a share of 1, which is cut off.
    """
    from archnet.export.tvm_isa import choose_isa
    from archnet.export.tvm_target import find_processor

    graph = tiny_encoder(np.random.default_rng(5), max_sequence=1024, share_levels=256)
    flat = np.full(256, 2**20, dtype=np.int32)
    table = next(node.inputs[1] for node in graph.nodes if node.op is Op.SOFTMAX)
    graph = replace(graph, constants={**graph.constants, table: flat})
    processor = find_processor("host")
    isa = choose_isa(tvm.target.Target(processor.tvm_target()))
    compile_and_compare(graph, tmp_path, isa.name, processor.cpu, tensors=False)


def test_attention_and_one_hot_layers_are_fused() -> None:
    from archnet.export.tvm_fusion import AttentionGroup, OneHotGroup, find_groups

    kinds = [type(group) for group in find_groups(network("codes"))]
    assert kinds == [OneHotGroup, AttentionGroup, AttentionGroup]


def test_what_something_else_reads_is_not_fused_away() -> None:
    from archnet.export.tvm_fusion import find_groups

    graph = network("pooled")
    shares = next(node.output for node in graph.nodes if node.op is Op.SOFTMAX)
    output = GraphOutput("shares", shares, np.ones(1, dtype=np.float32))
    assert len(find_groups(graph)) == 1
    assert find_groups(replace(graph, outputs=(*graph.outputs, output))) == []


def test_module_holds_no_float() -> None:
    from archnet.export.tvm_isa import ISAS
    from archnet.export.tvm_module import build_module

    for isa in ISAS:
        assert "float" not in build_module(network("tokens"), isa).script(show_meta=False)


def test_runs_in_a_fresh_process(tmp_path: Path) -> None:
    graph = network("pooled")
    library = compile_tvm(graph, tmp_path, target="host")
    inputs = random_inputs(np.random.default_rng(0), graph, batch=2, sequence=5)
    fed = feed(graph, inputs)
    np.savez(tmp_path / "in.npz", **fed)
    # Nothing of archnet: a user needs TVM's runtime and the library only.
    program = (
        "import sys, json, numpy as np, tvm; from tvm import relax\n"
        "folder = sys.argv[1]; meta = json.load(open(folder + '/meta.json'))\n"
        "x = np.load(folder + '/in.npz')\n"
        "vm = relax.VirtualMachine(tvm.runtime.load_module(folder + '/model.so'), tvm.cpu())\n"
        "y = vm[meta['entry']](*(tvm.runtime.tensor(x[i['name']]) for i in meta['inputs']))\n"
        "np.savez(folder + '/out.npz', **{o['name']: v.numpy() for o, v in zip(meta['outputs'], y)})\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, timeout=60)
    expected = execute(graph, fed)
    with np.load(tmp_path / "out.npz") as results:
        assert set(results) == set(expected)
        for name in results:
            np.testing.assert_array_equal(results[name], expected[name])
    assert library == tmp_path / "model.so"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.npz", "meta.json", "model.so", "out.npz"]


@pytest.mark.parametrize(
    ("target", "machine"),
    [("aarch64", 0xB7), ("aarch64-dotprod", 0xB7), ("riscv64", 0xF3), ("x86_64-avx512vnni", 0x3E)],
)
def test_cross_compiles(target: str, machine: int, tmp_path: Path) -> None:
    try:
        linker(TARGETS[target].architecture)
    except ArchNetError as error:
        pytest.skip(str(error))
    library = compile_tvm(network("pooled"), tmp_path, target=target)
    head = library.read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[16:18], "little") == 3, "a shared object"
    assert int.from_bytes(head[18:20], "little") == machine
    meta = json.loads((tmp_path / "meta.json").read_text())
    assert meta["architecture"] == TARGETS[target].architecture
    assert meta["inputs"][0] == {"name": "input_ids", "shape": ["batch", "sequence"], "dtype": "int64"}


def test_unknown_target_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="TVM target 'aarch46' does not exist") as caught:
        compile_tvm(network("pooled"), tmp_path / "out", target="aarch46")
    assert "did you mean 'aarch64'" in caught.value.fix
    assert not (tmp_path / "out").exists()


def test_tvm_missing_says_how_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tvm", None)
    with pytest.raises(ArchNetError, match="TVM is not installed") as caught:
        compile_tvm(network("pooled"), tmp_path / "out")
    assert caught.value.fix == "pip install 'archnet[tvm]'"
    assert not (tmp_path / "out").exists()


def test_no_linker_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArchNetError, match="no linker makes a shared library for aarch64") as caught:
        linker("aarch64")
    assert caught.value.fix == "pip install ziglang"


def test_a_linker_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "cc").write_text("#!/bin/sh\necho 'ld: out of luck' >&2\nexit 1\n")
    (tools / "cc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=os.pathsep)
    with pytest.raises(ArchNetError, match=r"cannot link .*: ld: out of luck"):
        compile_tvm(network("pooled"), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_folder_of_a_target() -> None:
    assert folder_name() == folder_name("host") == os.uname().machine
    assert folder_name("aarch64") == "aarch64"
