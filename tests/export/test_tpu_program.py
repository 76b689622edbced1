"""Programs for TPU-MLIR, computed here in NumPy and PyTorch from what each operation is said to be."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from archnet.backends.reference import ReferenceBackend
from archnet.backends.sophgo import ProgramBackend
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.export.host_split import MaskInput
from archnet.export.tpu_program import TpuProgram, build_tpu_program
from archnet.export.tpu_state import Operation
from archnet.graph import QuantizedGraph
from archnet.operators import Op
from tests.attention_graphs import with_padding, with_relu_attention, with_table_softmax
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph, images
from tests.steps import STEPS, walked

Array = NDArray[Any]

SEQUENCE = 16


def shifted(value: Array, shift: int, dtype: str) -> Array:
    """Over 2**shift, half to even, saturated; float64 holds what these tests need exactly."""
    limits = np.iinfo(dtype)
    rounded = np.rint(value.astype(np.float64) / 2**shift)
    return np.clip(rounded, limits.min, limits.max).astype(dtype)


def tensor(value: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(value.astype(np.float64)))


def convolved(inputs: list[Array], pads: list[int], strides: list[int], groups: int) -> Array:
    x, weight, bias = inputs
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(tensor(x), (left, right, top, bottom))
    y = torch.nn.functional.conv2d(padded, tensor(weight), stride=strides, groups=groups)
    return np.asarray(np.rint(y.numpy()).astype(np.int64) + bias)


def pooled(x: Array, kernel: list[int], strides: list[int], pads: list[int]) -> Array:
    top, left, bottom, right = pads
    padded = torch.nn.functional.pad(tensor(x), (left, right, top, bottom), value=-1000.0)
    y = torch.nn.functional.max_pool2d(padded, kernel, stride=strides)
    return np.asarray(y.numpy().astype(np.int64))


def multiplied(inputs: list[Array], kind: Operation, shift: int, factor: int | None = None) -> Array:
    right = inputs[1].astype(np.int64) if factor is None else np.int64(factor)
    return shifted(inputs[0].astype(np.int64) * right, shift, kind.dtype)


def shares(x: Array, kind: Operation, scale: float, levels: int) -> Array:
    real = x.astype(np.float64) * scale
    e = np.exp(real - real.max(axis=-1, keepdims=True))
    return shifted(levels * e / e.sum(axis=-1, keepdims=True), 0, kind.dtype)


def products(inputs: list[Array], transpose: bool) -> Array:
    right = np.swapaxes(inputs[1], -1, -2) if transpose else inputs[1]
    total = inputs[0].astype(np.int64) @ right.astype(np.int64)
    return total + inputs[2] if len(inputs) > 2 else total


def limited(x: Array, most: int = 1000, least: int = -1000) -> Array:
    return np.clip(x.astype(np.int64), least, most)


def looked_up(x: Array, table: Array) -> Array:
    return np.asarray(table.reshape(-1)[x.view(np.uint8)])


def sliced(x: Array, starts: list[int], ends: list[int]) -> Array:
    return x[tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))]


def padded(x: Array, pads: list[int]) -> Array:
    return np.pad(x, list(zip(pads[: x.ndim], pads[x.ndim :], strict=True)))


KINDS: dict[str, Callable[..., Array]] = {
    "multiply": lambda o, i, **n: multiplied(i, o, **n),
    "add": lambda o, i, shift: shifted(i[0].astype(np.int64) + i[1], shift, o.dtype),
    "matmul": lambda o, i, **n: products(i, **n),
    "conv": lambda o, i, **n: convolved(i, **n),
    "max_pool": lambda o, i, **n: pooled(i[0], **n),
    "minimum": lambda o, i: np.minimum(i[0], i[1]),
    "limit": lambda o, i, **n: limited(i[0], **n),
    "softmax": lambda o, i, **n: shares(i[0], o, **n),
    "lookup": lambda o, i: looked_up(*i),
    "reshape": lambda o, i, sizes: i[0].reshape(sizes),
    "transpose": lambda o, i, order: i[0].transpose(order),
    "concat": lambda o, i, axis: np.concatenate(i, axis),
    "slice": lambda o, i, **n: sliced(i[0], **n),
    "pad": lambda o, i, **n: padded(i[0], **n),
}


class NumpyBackend(ProgramBackend):
    """Runs a program."""

    name = "numpy"

    def execute(self, model: TpuProgram, inputs: Mapping[str, Array]) -> dict[str, Array]:
        values = {**model.constants, **inputs}
        assert [(name, str(v.dtype), v.shape) for name, v in inputs.items()] == [
            (given.name, given.dtype, given.shape) for given in model.inputs
        ]
        for operation in model.operations:
            given = [values[name] for name in operation.inputs]
            made = KINDS[operation.kind](operation, given, **dict(operation.numbers))
            assert made.shape == operation.shape, operation
            limits = np.iinfo(operation.dtype)
            assert limits.min <= made.min(), operation
            assert made.max() <= limits.max, operation
            values[operation.output] = made.astype(operation.dtype)
        return {name: values[name] for name in model.outputs}


def encoder(bits: Bits, **more: Any) -> QuantizedGraph:
    return tiny_encoder(
        np.random.default_rng(0), layers=2, embedding="host",
        weight_bits=bits.weights, activation_bits=bits.activations, **more,
    )  # fmt: skip


NETWORKS: dict[str, Callable[[Bits], QuantizedGraph]] = {
    "text": lambda bits: encoder(bits, concat=True, pooled=False, activation="gelu"),
    "pooled": encoder,
    "table": lambda bits: with_table_softmax(encoder(bits)),
    "relu": lambda bits: with_relu_attention(encoder(bits)),
    "mixing": lambda bits: with_padding(encoder(bits)),
    "cnn": lambda bits: image_graph("cnn", bits),
    "vit": lambda bits: image_graph("vit", bits),
    "beit": lambda bits: image_graph("beit", bits),
    "swin": lambda bits: image_graph("swin", bits),
    "swin padded": lambda bits: image_graph("swin_padded", bits),
}


@pytest.mark.parametrize("bits", ["w8a8", "w4a4"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_program_computes_the_integers_of_the_reference(kind: str, bits: str) -> None:
    """With these sentences no share is so near a half that its real number rounds otherwise."""
    graph = NETWORKS[kind](Bits.parse(bits))
    if any(spec.name == "pixel_values" for spec in graph.inputs):
        inputs = {"pixel_values": images(2, 3)["pixel_values"].numpy()}
    else:
        inputs = dict(random_inputs(np.random.default_rng(6), graph, batch=3, sequence=SEQUENCE))
    backend = NumpyBackend(graph, build_tpu_program(graph))
    found, expected = backend.tensors(inputs), ReferenceBackend(graph).tensors(inputs)
    assert {node.op for node in graph.nodes if node.output in found} >= {Op.LINEAR, Op.RESHAPE} - (
        {Op.RESHAPE} if kind == "cnn" else set()
    )
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    for name, value in ReferenceBackend(graph).run(inputs).items():
        np.testing.assert_array_equal(backend.run(inputs)[name], value)


@pytest.mark.parametrize("attention", ["softmax", "relu"])
@pytest.mark.parametrize("kind", STEPS)
def test_a_step_of_a_decoder_computes_the_integers_of_the_reference(kind: str, attention: str) -> None:
    graph, feeds = walked(kind, attention)
    backend, reference = NumpyBackend(graph, build_tpu_program(graph)), ReferenceBackend(graph)
    masked = {given.name for given in backend.model.inputs if MaskInput.of(graph, given.name)}
    assert any(name.startswith("cache_") for name in masked)
    assert any(name.startswith("attention_") for name in masked) is (kind == "translation")
    for fed in feeds:
        found, expected = backend.tensors(fed), reference.tensors(fed)
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
        for name, value in reference.run(fed).items():
            np.testing.assert_array_equal(backend.run(fed)[name], value)


def test_the_file_holds_the_whole_program_and_is_the_same_each_time() -> None:
    graph = encoder(Bits(8, 8))
    program = build_tpu_program(graph, 12)
    assert program.content == build_tpu_program(graph, 12).content
    with np.load(io.BytesIO(program.content), allow_pickle=False) as arrays:
        plan = json.loads(arrays["program"].tobytes())
        assert len(arrays.files) == len(program.constants) + 1
        for i, name in enumerate(plan["constants"]):
            np.testing.assert_array_equal(arrays[str(i)], program.constants[name])
    assert plan["inputs"] == [["word_rows", "int8", [1, 12, 16]], ["attention_limit", "int8", [1, 1, 1, 12]]]
    assert plan["outputs"] == list(program.outputs)
    assert [operation[0] for operation in plan["operations"]] == [o.kind for o in program.operations]


def test_what_has_no_form_is_refused_by_name() -> None:
    graph = tiny_encoder(np.random.default_rng(0), embedding="one_hot")
    with pytest.raises(ArchNetError) as refused:
        build_tpu_program(graph)
    assert "OneHot has no form in TpuLang: a row of a one-hot matrix is as wide" in refused.value.problem
    assert refused.value.fix == "convert with --embedding host (or gather)"
    with pytest.raises(ArchNetError, match=r"--seq-len 99 is not in 1 \.\. 16, which the network takes"):
        build_tpu_program(encoder(Bits(8, 8)), 99)
