"""Random, small, valid integer networks for tests of everything that reads a QuantizedGraph.

The multipliers are chosen from what a random batch does in the network, so that values spread over
their ranges as in a calibrated one and few are clamped.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from archnet.calibration.affine import (
    fit_linear_scales,
    fit_operand_scale,
    fit_output_scale,
    fit_weight_scale,
)
from archnet.errors import ArchNetError
from archnet.graph import AttributeValue, Dim, GraphOutput, HostTable, Node, QuantizedGraph, TensorSpec
from archnet.operators import Op
from archnet.reference import integer_matmul, run_node

Embedding = Literal["gather", "one_hot", "host", "code"]
Generator = np.random.Generator

CODE_DIGITS = 3
CODE_DEPTH = 8


def random_inputs(
    rng: Generator, graph: QuantizedGraph, *, batch: int = 3, sequence: int = 7
) -> dict[str, NDArray[np.int64]]:
    """The user's inputs of a `tiny_encoder`: ids and a mask with padding on the right."""
    vocabulary = _vocabulary(graph)
    lengths = rng.integers(1, sequence + 1, batch)
    lengths[0] = sequence
    mask = (np.arange(sequence) < lengths[:, None]).astype(np.int64)
    ids = rng.integers(0, vocabulary, (batch, sequence), dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def tiny_encoder(
    rng: Generator,
    *,
    layers: int = 1,
    hidden: int = 16,
    heads: int = 2,
    vocab: int = 50,
    max_sequence: int = 16,
    pooled: bool = True,
    embedding: Embedding = "gather",
    activation: Literal["relu", "gelu"] = "relu",
    concat: bool = False,
    weight_bits: int = 8,
    activation_bits: int | tuple[int, ...] = 8,
    share_levels: int = 255,
) -> QuantizedGraph:
    """A random Transformer encoder without LayerNorm, as conversion makes them.

    Args:
        weight_bits: of every fully connected layer.
        activation_bits: of what layers and products read; of several, one is drawn for each tensor. The
            stream between Adds and the scores keep 8 bits: layers read a narrow version of the stream.
        share_levels: units that make 1 in probabilities of 8 bits.
        pooled: the output is the mean of the unmasked tokens, normalised; otherwise every token's
            ("last_hidden_state") and a tanh layer over the first token's ("pooler_output").
        embedding: the form of the word embedding; "host" and "code" need a host table.
        activation: of the feed-forward part: ReLU as an unsigned output, GELU as a look-up table.
        concat: the feed-forward part is two halves that are concatenated.
    """
    widths = (activation_bits,) if isinstance(activation_bits, int) else activation_bits
    b = _Builder(rng, max_sequence, weight_bits, widths, share_levels)
    words = _embed(b, embedding, vocab, hidden)
    x = _positions(b, words, hidden)
    for layer in range(layers):
        b.block = f"layer{layer}"
        x = _attention(b, x, hidden, heads)
        x = _feed_forward(b, x, hidden, activation, concat)
    b.block = "pooling"
    if pooled:
        offset = b.constant("pool.offset", rng.integers(-999, 999, hidden, dtype=np.int32))
        y = b.node(
            Op.MEAN_POOL, "pool", (x, "attention_mask", offset), ("batch", hidden), "int32", 32, b.scale(x)
        )
        b.output("sentence_embedding", y, b.scale(x) / 2**8, hidden, normalize=True)
    else:
        offset = b.constant("widen.offset", rng.integers(-999, 999, hidden, dtype=np.int32))
        shape = ("batch", "sequence", hidden)
        y = b.node(Op.WIDEN, "widen", (x, offset), shape, "int32", 32, b.scale(x))
        b.output("last_hidden_state", y, b.scale(x) / 2**8, hidden)
        first = b.node(Op.SELECT, "first", (x,), ("batch", hidden), "int8", 8, b.scale(x), axis=1, index=0)
        dense = b.linear("pooler", b.narrow("first.narrow", first), hidden, small=True)
        tanh = b.lookup("tanh", dense, np.tanh)
        b.output("pooler_output", tanh, b.scale(tanh), hidden)
    return b.finish(f"tiny-{embedding}")


def _fixed_scale_fit(
    wished: NDArray[np.float64], scale_x: float, scale_y: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """`fit_weight_scale`; where a channel has no match, which is rare, of weights a little larger."""
    for _ in range(200):
        try:
            return fit_weight_scale(wished, scale_x, scale_y)
        except ArchNetError:
            wished = wished * 1.003
    raise AssertionError("two hundred sets of weight scales have no match")


@dataclass
class _Builder:
    rng: Generator
    max_sequence: int
    weight_bits: int = 8
    widths: tuple[int, ...] = (8,)
    share_levels: int = 255
    block: str = "embeddings"
    inputs: list[TensorSpec] = field(default_factory=list)
    outputs: list[GraphOutput] = field(default_factory=list)
    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, TensorSpec] = field(default_factory=dict)
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    host_tables: list[HostTable] = field(default_factory=list)
    values: dict[str, NDArray[Any]] = field(default_factory=dict)
    """What a random batch gives for every tensor."""

    def __post_init__(self) -> None:
        self.dims = {"batch": 4, "sequence": min(self.max_sequence, 12)}

    def input(
        self, name: str, shape: tuple[Dim, ...], dtype: str, value: NDArray[Any], scale: float | None
    ) -> str:
        self.inputs.append(TensorSpec(name, shape, dtype, 64 if dtype == "int64" else 8, scale))
        self.tensors[name] = self.inputs[-1]
        self.values[name] = value
        return name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self.constants[name] = value
        return name

    def scale(self, name: str) -> float:
        scale = self.tensors[name].scale
        assert scale is not None
        return scale

    def node(
        self,
        op: Op,
        name: str,
        inputs: tuple[str, ...],
        shape: tuple[Dim, ...],
        dtype: str,
        bits: int,
        scale: float,
        /,
        **attributes: AttributeValue,
    ) -> str:
        name = f"{self.block}.{name}"
        spec = TensorSpec(f"{name}:0", shape, dtype, bits, scale)
        node = Node(op, name, inputs, spec.name, attributes, self.block)
        arrays = [self.values[n] if n in self.values else self.constants[n] for n in inputs]
        self.values[spec.name] = run_node(node, arrays, spec, self.dims)
        self.tensors[spec.name] = spec
        self.nodes.append(node)
        return spec.name

    def width(self) -> int:
        """The bits of a new activation."""
        return self.widths[0] if len(self.widths) == 1 else int(self.rng.choice(self.widths))

    def narrow(self, name: str, x: str) -> str:
        """x for layers and products: itself, or a Requantize of it to fewer bits."""
        spec, bits = self.tensors[x], self.width()
        if bits == spec.bits:
            return x
        multiplier, scale = fit_output_scale(self.scale(x) * 2 ** (spec.bits - bits) * 0.9, self.scale(x))
        return self.node(
            Op.REQUANTIZE, name, (x,), spec.shape, spec.dtype, bits, scale, multiplier=multiplier
        )

    def output(self, name: str, tensor: str, scale: float, width: int, *, normalize: bool = False) -> None:
        scales = (scale * self.rng.uniform(0.5, 2.0, width)).astype(np.float32)
        self.outputs.append(GraphOutput(name, tensor, scales, normalize))

    def linear(
        self,
        name: str,
        x: str,
        width: int,
        *,
        scale: float | None = None,
        relu: bool = False,
        small: bool = False,
        bits: int | None = None,
    ) -> str:
        """A fully connected layer; with `scale`, its output has exactly this scale.

        `small` asks for real values that suit a softmax over products or a tanh.
        """
        spec = self.tensors[x]
        depth = int(spec.shape[-1])
        bits = bits or self.width()
        part = 2.0 ** (bits - 8)
        span = 2 ** (self.weight_bits - 1)
        weight = np.rint(self.rng.normal(0, 40 * span / 128, (width, depth)))
        weight = np.clip(weight, -span, span - 1).astype(np.int8)
        if self.weight_bits == 2:
            weight = 2 * weight + np.int8(1)  # the four codes stand for -3, -1, 1 and 3
        accumulator = integer_matmul(self.values[x].reshape(-1, depth), weight.T)
        spread = np.maximum(accumulator.std(axis=0) * (1.5 if relu else 3), 130.0 * part)
        bias = np.rint(self.rng.normal(0, 0.2, width) * spread).astype(np.int32)
        factor = 120 * part / spread
        low, high = (0.012, 0.03) if small else (0.02, 0.08)
        wished_scale = scale or float(np.float32(self.rng.uniform(low, high) / part))
        wished = factor * wished_scale / self.scale(x)
        if scale is None:
            multiplier, weight_scale, scale = fit_linear_scales(wished, self.scale(x), wished_scale)
        else:
            multiplier, weight_scale = _fixed_scale_fit(wished, self.scale(x), scale)
        key = f"{self.block}.{name}"
        inputs = (
            x,
            self.constant(f"{key}.weight", weight),
            self.constant(f"{key}.bias", bias),
            self.constant(f"{key}.multiplier", multiplier),
            self.constant(f"{key}.weight_scale", weight_scale),
        )
        shape = (*spec.shape[:-1], width)
        dtype = "uint8" if relu else "int8"
        return self.node(Op.LINEAR, name, inputs, shape, dtype, bits, scale, weight_bits=self.weight_bits)

    def matmul(
        self, name: str, a: str, b: str, shape: tuple[Dim, ...], bits: int, *, transpose_b: bool
    ) -> str:
        right = np.swapaxes(self.values[b], -1, -2) if transpose_b else self.values[b]
        spread = float(integer_matmul(self.values[a], right).std()) * 3
        part = 2.0 ** (bits - 8)
        factor = 120 * part / max(spread, 130.0 * part)
        product = self.scale(a) * self.scale(b)
        multiplier, scale = fit_output_scale(product / factor, self.scale(a), self.scale(b))
        return self.node(
            Op.MATMUL, name, (a, b), shape, "int8", bits, scale,
            multiplier=multiplier, transpose_b=transpose_b,
        )  # fmt: skip

    def residual(self, name: str, x: str, branch_input: str, width: int) -> str:
        """x + Linear(branch_input): the Add's scale is fitted to x, then the branch's to the Add's."""
        multiplier_x, scale = fit_output_scale(self.scale(x) * 1.4, self.scale(x))
        multiplier_branch, branch_scale = fit_operand_scale(scale * 0.8, scale)
        branch = self.linear(f"{name}.dense", branch_input, width, scale=branch_scale, bits=8)
        shape = self.tensors[x].shape
        return self.node(
            Op.ADD, f"{name}.add", (x, branch), shape, "int8", 8, scale,
            multiplier_a=multiplier_x, multiplier_b=multiplier_branch,
        )  # fmt: skip

    def lookup(self, function: str, x: str, real: Any) -> str:
        spec = self.tensors[x]
        inputs = np.arange(-128, 128) * self.scale(x)
        bits = self.width()
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        reached = inputs[128 + spec.range[0] : 129 + spec.range[1]]
        scale = float(np.float32(np.abs(real(reached)).max() / high))
        table = np.clip(np.rint(real(inputs) / scale), low, high).astype(np.int8)
        name = self.constant(f"{self.block}.{function}.table", table)
        return self.node(Op.LOOKUP, function, (x, name), spec.shape, "int8", bits, scale, function=function)

    def finish(self, name: str) -> QuantizedGraph:
        return QuantizedGraph(
            name,
            tuple(self.inputs),
            tuple(self.outputs),
            tuple(self.nodes),
            self.tensors,
            self.constants,
            self.max_sequence,
            tuple(self.host_tables),
        )


def _table(rng: Generator, rows: int, width: int) -> NDArray[np.int8]:
    return np.clip(np.rint(rng.normal(0, 40, (rows, width))), -128, 127).astype(np.int8)


def _embed(b: _Builder, form: Embedding, vocab: int, hidden: int) -> str:
    shape: tuple[Dim, ...] = ("batch", "sequence")
    size = (b.dims["batch"], b.dims["sequence"])
    ids = b.rng.integers(0, vocab, size, dtype=np.int64)
    scale = float(np.float32(b.rng.uniform(0.01, 0.03)))
    if form == "host":
        table = b.constant("word_table", _table(b.rng, vocab, hidden))
        b.host_tables.append(HostTable("input_ids", "word_rows", table))
        word = b.input("word_rows", (*shape, hidden), "int8", b.constants[table][ids], scale)
    elif form == "code":
        codes = b.constant("word_codes", b.rng.integers(0, CODE_DEPTH, (vocab, CODE_DIGITS), dtype=np.int32))
        b.host_tables.append(HostTable("input_ids", "word_code_ids", codes))
        digits = b.constants[codes][ids].astype(np.int64)
        x = b.input("word_code_ids", (*shape, CODE_DIGITS), "int64", digits, None)
        word = _one_hot_linear(b, x, CODE_DEPTH, CODE_DEPTH * CODE_DIGITS, hidden)
    elif form == "one_hot":
        x = b.input("input_ids", shape, "int64", ids, None)
        word = _one_hot_linear(b, x, vocab, vocab, hidden)
    else:
        x = b.input("input_ids", shape, "int64", ids, None)
        table = b.constant("word_table", _table(b.rng, vocab, hidden))
        word = b.node(Op.EMBEDDING, "words", (x, table), (*shape, hidden), "int8", 8, scale)
    mask = np.ones(size, dtype=np.int64)
    mask[1:, size[1] // 2 :] = 0
    b.input("attention_mask", shape, "int64", mask, None)
    return word


def _one_hot_linear(b: _Builder, ids: str, depth: int, width: int, hidden: int) -> str:
    hot = b.node(Op.ONE_HOT, "one_hot", (ids,), ("batch", "sequence", width), "uint8", 1, 1.0, depth=depth)
    return b.linear("words", hot, hidden, bits=8)


def _positions(b: _Builder, words: str, hidden: int) -> str:
    table = b.constant("position_table", _table(b.rng, b.max_sequence, hidden))
    multiplier_a, scale = fit_output_scale(b.scale(words) * 1.4, b.scale(words))
    multiplier_b, position_scale = fit_operand_scale(scale * 0.5, scale)
    rows = b.node(Op.SLICE, "positions", (table,), ("sequence", hidden), "int8", 8, position_scale)
    return b.node(
        Op.ADD, "add", (words, rows), ("batch", "sequence", hidden), "int8", 8, scale,
        multiplier_a=multiplier_a, multiplier_b=multiplier_b,
    )  # fmt: skip


def _attention(b: _Builder, x: str, hidden: int, heads: int) -> str:
    width = hidden // heads
    split: tuple[Dim, ...] = ("batch", "sequence", heads, width)
    swapped: tuple[Dim, ...] = ("batch", heads, "sequence", width)
    narrow = b.narrow("attention.narrow", x)
    parts = []
    for part in ("query", "key", "value"):
        dense = b.linear(part, narrow, hidden, small=part != "value")
        scale, bits = b.scale(dense), b.tensors[dense].bits
        split_part = b.node(Op.RESHAPE, f"{part}.split", (dense,), split, "int8", bits, scale, shape=split)
        parts.append(
            b.node(
                Op.TRANSPOSE, f"{part}.swap", (split_part,), swapped, "int8", bits, scale, perm=(0, 2, 1, 3)
            )
        )
    square: tuple[Dim, ...] = ("batch", heads, "sequence", "sequence")
    scores = b.matmul("scores", parts[0], parts[1], square, 8, transpose_b=True)
    scale = b.scale(scores)
    masked = b.node(Op.MASK, "mask", (scores, "attention_mask"), square, "int8", 8, scale)
    powers = np.rint(2**20 * np.exp(-np.arange(256) * scale)).astype(np.int32)
    table = b.constant(f"{b.block}.softmax.table", powers)
    bits = b.width()
    share = float(np.float32(1 / (b.share_levels >> (8 - bits))))
    shares = b.node(Op.SOFTMAX, "softmax", (masked, table), square, "uint8", bits, share)
    bits = b.width()
    context = b.matmul("context", shares, parts[2], swapped, bits, transpose_b=False)
    scale = b.scale(context)
    back = b.node(Op.TRANSPOSE, "context.swap", (context,), split, "int8", bits, scale, perm=(0, 2, 1, 3))
    flat: tuple[Dim, ...] = ("batch", "sequence", hidden)
    joined = b.node(Op.RESHAPE, "context.join", (back,), flat, "int8", bits, scale, shape=flat)
    return b.residual("attention", x, joined, hidden)


def _feed_forward(b: _Builder, x: str, hidden: int, activation: str, concat: bool) -> str:
    relu = activation == "relu"
    narrow = b.narrow("up.narrow", x)
    if concat:
        first = b.linear("up.first", narrow, 2 * hidden, relu=relu)
        spec = b.tensors[first]
        second = b.linear("up.second", narrow, 2 * hidden, relu=relu, scale=b.scale(first), bits=spec.bits)
        shape = (*spec.shape[:-1], 4 * hidden)
        up = b.node(Op.CONCAT, "up", (first, second), shape, spec.dtype, spec.bits, b.scale(first), axis=-1)
    else:
        up = b.linear("up", narrow, 4 * hidden, relu=relu)
    if not relu:
        up = b.lookup("gelu", up, lambda v: v / (1 + np.exp(-1.702 * v)))
    return b.residual("down", x, up, hidden)


def _vocabulary(graph: QuantizedGraph) -> int:
    if graph.host_tables:
        return int(graph.constants[graph.host_tables[0].table].shape[0])
    for node in graph.nodes:
        if node.op is Op.EMBEDDING:
            return int(graph.constants[node.inputs[1]].shape[0])
        if node.op is Op.ONE_HOT:
            depth = node.attributes["depth"]
            assert isinstance(depth, int)
            return depth
    raise ValueError("the graph has no word embedding")
