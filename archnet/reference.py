"""The integer network in NumPy: the definition of what a QuantizedGraph computes.

Integers in, integers out. Every backend's results are compared with these. One small function an
operator, each with its formula; `OPERATORS` lists them. `integer` below means Python's and NumPy's
exact integers; division `//` rounds down; requantize(a, m) = round_half_even(a * m / 2**16) and clamp
are to the output's range, so that an unsigned output is a fused ReLU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from archnet.calibration.affine import requantize, round_shift
from archnet.calibration.log_sum import NUMERATOR, NUMERATOR_SHIFT, OCTAVES
from archnet.errors import ArchNetError
from archnet.graph import WIDEN_SHIFT, Dim, Node, QuantizedGraph, TensorSpec
from archnet.integer_product import integer_matmul
from archnet.operators import Op
from archnet.reference_image import convolution, max_pool, prepend
from archnet.windows import Windows

Array = NDArray[Any]

# One-hot rows have one entry in thousands: below this share of nonzeros a sparse product is faster.
_SPARSE_SHARE = 1 / 32


@dataclass(frozen=True, slots=True)
class Call:
    """One execution of a node: what an operator's function needs beside its input arrays."""

    node: Node
    output: TensorSpec
    dims: Mapping[str, int]

    def integer(self, name: str) -> int:
        """The integer attribute of this name."""
        value = self.node.attributes[name]
        if not isinstance(value, int):
            raise TypeError(f"{self.node.name}: attribute {name} is {value!r}, not an integer")
        return value

    def sizes(self, name: str) -> tuple[int, ...]:
        """The tuple attribute of this name, with "batch" and "sequence" replaced by their values."""
        value = self.node.attributes[name]
        if not isinstance(value, tuple):
            raise TypeError(f"{self.node.name}: attribute {name} is {value!r}, not a tuple")
        return tuple(self.size(dim) for dim in value)

    def size(self, dim: Dim) -> int:
        """The value of a size or of a symbol."""
        return self.dims[dim] if isinstance(dim, str) else dim

    def clamp(self, values: Array) -> Array:
        """Clamp to the output's range and convert to its dtype."""
        low, high = self.output.range
        return np.clip(values, low, high).astype(self.output.dtype)


def _sparse_matmul(x: Array, weight: Array) -> NDArray[np.int64]:
    """x (M, K) @ weight (N, K).T for an x that is nearly all zeros, in int32.

    A graph is only valid when no accumulator leaves 32 bits (archnet.graph_check).
    """
    return np.asarray(sparse.csr_array(x).astype(np.int32) @ weight.T.astype(np.int32)).astype(np.int64)


def embedding(call: Call, ids: Array, table: Array) -> Array:
    """table[ids]: ids int64 (B, S), table (V, C) int8 or uint8 -> (B, S, C)."""
    _check_ids(call, ids, table.shape[0])
    return np.asarray(table[ids])


def one_hot(call: Call, ids: Array) -> Array:
    """y[..., d] = 1 where d == id, else 0, as uint8 of width `depth`.

    Codes (B, S, K) become (B, S, K * depth): digit k sets position k * depth + code.
    """
    depth = call.integer("depth")
    _check_ids(call, ids, depth)
    codes = ids[..., None] if ids.ndim == 2 else ids
    hot = np.zeros((*codes.shape, depth), dtype=np.uint8)
    np.put_along_axis(hot, codes[..., None], 1, axis=-1)
    return hot.reshape(*codes.shape[:2], -1)


def slice_rows(call: Call, table: Array) -> Array:
    """The first positions of a table (see `first_positions`), or B times that."""
    sizes = tuple(call.size(dim) for dim in call.output.shape)
    return np.broadcast_to(first_positions(table, sizes), sizes)


def first_positions(table: Array, sizes: Sequence[int]) -> Array:
    """table[:S] of a table of positions (Smax, C); table[:, :Q, :K] of one of pairs, (heads, Smax, Smax).

    Args:
        sizes: of the result, (..., S, C) or (heads, Q, K).
    """
    return table[: sizes[-2]] if table.ndim == 2 else table[:, : sizes[-2], : sizes[-1]]


def linear(call: Call, x: Array, weight: Array, bias: Array, multiplier: Array, weight_scale: Array) -> Array:
    """clamp(requantize(sum_k x[..., k] * weight[n, k] + bias[n], multiplier[n])).

    x (..., K) int8 or uint8, weight (N, K) int8, bias and multiplier (N,) int32 -> (..., N).
    weight_scale (N,) is for exporters only: float32(float32(scale_x * weight_scale) / scale_y) is
    multiplier / 2**16 exactly. `bias` has the scale scale_x * weight_scale.
    """
    rows = x.reshape(-1, x.shape[-1])
    if np.count_nonzero(rows) < rows.size * _SPARSE_SHARE:
        products = _sparse_matmul(rows, weight)
    else:
        products = integer_matmul(rows, weight.T)
    accumulator = products + bias.astype(np.int64)
    return call.clamp(requantize(accumulator, multiplier)).reshape(*x.shape[:-1], weight.shape[0])


def matmul(call: Call, a: Array, b: Array) -> Array:
    """clamp(requantize(a @ b, multiplier)), a (..., M, K), b (..., K, N) or, if transpose_b, (..., N, K)."""
    if call.node.attributes.get("transpose_b", False):
        b = np.swapaxes(b, -1, -2)
    return call.clamp(requantize(integer_matmul(a, b), call.integer("multiplier")))


def mean_matmul(
    call: Call, a: Array, b: Array, multipliers: Array, attention_mask: Array | None = None
) -> Array:
    """clamp(requantize(sum_k seen[k] * a[..., k] * b[..., k, :], multipliers[n - 1])), n = max(1, sum(seen)).

    a (B, H, M, K), b (B, H, K, N), multipliers (at least K,) int32, attention_mask int64 (B, K): `seen` is
    where it is not 0, or everywhere without one. multipliers[n - 1] is about multipliers[0] / n.
    """
    seen = np.ones((a.shape[0], a.shape[-1]), bool) if attention_mask is None else attention_mask != 0
    products = integer_matmul(np.where(seen[:, None, None, :], a, 0), b)
    count = np.maximum(seen.sum(axis=-1), 1)
    return call.clamp(requantize(products, multipliers[count - 1][:, None, None, None]))


def relative_matmul(call: Call, x: Array, table: Array, table_scale: Array) -> Array:
    """clamp(requantize(sum_c x[b, h, i, c] * table[h, P - 1 + j - i, c], multiplier)): (B, H, S, S).

    x (B, H, S, C) int8, table (H, 2 * P - 1, C) int8 with P >= S: a row for what stands so many places
    behind a token, from -(P - 1) on. table_scale (1,) is for exporters only, as of `linear`.
    """
    tokens, positions = x.shape[2], (table.shape[1] + 1) // 2
    rows = table[None, :, positions - tokens : positions + tokens - 1]
    products = integer_matmul(x, np.swapaxes(np.broadcast_to(rows, (len(x), *rows.shape[1:])), -1, -2))
    place = np.arange(tokens)
    distance = place[None, :] - place[:, None] + tokens - 1
    chosen = np.take_along_axis(products, np.broadcast_to(distance, (*x.shape[:2], tokens, tokens)), -1)
    return call.clamp(requantize(chosen, call.integer("multiplier")))


def zero_pad(call: Call, x: Array, attention_mask: Array | None = None) -> Array:
    """x where the token is there and its mask is not 0, 0 elsewhere: (B, S, C) -> (B, P, C), P >= S."""
    positions = call.size(call.output.shape[1])
    kept = x if attention_mask is None else np.where((attention_mask != 0)[:, :, None], x, 0)
    missing = positions - x.shape[1]
    return np.asarray(np.pad(kept, ((0, 0), (0, missing), (0, 0))), dtype=call.output.dtype)


def crop(call: Call, x: Array) -> Array:
    """The first `sequence` positions: (B, P, C) -> (B, S, C)."""
    return x[:, : call.size(call.output.shape[1])]


def shift(call: Call, x: Array) -> Array:
    """The token `by` places before each, 0 where there is none: (B, S, C). Negative is behind."""
    by, length = call.integer("by"), x.shape[1]
    longer = np.pad(x, ((0, 0), (max(by, 0), max(-by, 0)), (0, 0)))
    return longer[:, :length] if by > 0 else longer[:, -length:]


def windows(call: Call, x: Array) -> Array:
    """Tokens of a map in the order of windows, or back: y[:, i] = x[:, order[i]], 0 where that is -1.

    x (B, S, C) -> (B, S', C); `archnet.windows.Windows` of the attributes says the order.
    """
    order = Windows.of(call.node.attributes).order()
    return np.asarray(np.where((order < 0)[:, None], 0, x[:, order]), dtype=call.output.dtype)


def mask(call: Call, x: Array, attention_mask: Array) -> Array:
    """min(x, limit), limit = greatest integer where the mask is not 0, least integer elsewhere.

    x int8 (B, H, S, S), attention_mask int64 (B, S) over the last axis; same scale.
    """
    low, high = call.output.range
    seen = attention_mask != 0
    limit = np.where(seen, high, low).reshape(seen.shape[0], *(1,) * (x.ndim - 2), seen.shape[1])
    return np.asarray(np.minimum(x, limit), dtype=call.output.dtype)


def softmax(call: Call, x: Array, table: Array) -> Array:
    """min((2 * Q * e + sum(e)) // (2 * sum(e)), 2**bits - 1) over the last axis, e = table[max(x) - x].

    The table holds rint(2**20 * exp(-i * scale_x)) for i = 0 .. 255; the output's scale is 1 / Q, with
    Q = 2**bits - 1, of which nothing is cut off, or 2**bits, as TFLite has it.
    `(Q * e + sum(e) // 2) // sum(e)` is the same number: 2 * Q * e is even, so an odd sum cannot
    decide; that form stays below 2**31 for up to 1024 positions.
    """
    wide = x.astype(np.int64)
    weights = table[wide.max(axis=-1, keepdims=True) - wide].astype(np.int64)
    total = weights.sum(axis=-1, keepdims=True)
    return call.clamp((2 * call.output.levels * weights + total) // (2 * total))


def log_sum_softmax(call: Call, x: Array, exponentials: Array, logs: Array, shares: Array) -> Array:
    """shares[min(2**shift * below + log, 255)] over the last axis: a softmax without a division.

    below = max(x) - x                                                        bytes
    total = sum(exponentials[below])                                          in units of 1 / 256
    octave[k] = min(round(511 * total / 2**(10 + k)), 255) for k = 0 .. 9     total / 2**k, units of 1 / 128
    log = round(multiplier * sum(logs[octave]) / 2**16)                       in steps of scale_x / 2**shift

    x int8; exponentials and logs int32 (256,), shares uint8 (256,): `archnet.calibration.log_sum` makes them.
    No sum of up to 1,024 keys gives a half in either rounding, below 255.
    """
    wide = x.astype(np.int64)
    below = wide.max(axis=-1, keepdims=True) - wide
    total = exponentials[below].astype(np.int64).sum(axis=-1, keepdims=True)
    shifts = NUMERATOR_SHIFT + np.arange(OCTAVES)
    octaves = np.minimum((NUMERATOR * total + 2 ** (shifts - 1)) >> shifts, 255)
    summed = logs[octaves].astype(np.int64).sum(axis=-1, keepdims=True)
    exponents = (below << call.integer("shift")) + requantize(summed, call.integer("multiplier"))
    return np.asarray(shares[np.minimum(exponents, 255)])


def add(call: Call, a: Array, b: Array) -> Array:
    """clamp(round_half_even((a * multiplier_a + b * multiplier_b) / 2**16)), a and b broadcast."""
    wide_a = a.astype(np.int64) * call.integer("multiplier_a")
    wide_b = b.astype(np.int64) * call.integer("multiplier_b")
    return call.clamp(round_shift(wide_a + wide_b))


def mul(call: Call, a: Array, b: Array) -> Array:
    """clamp(requantize(a * b, multiplier)), element by element, a and b broadcast."""
    return call.clamp(requantize(a.astype(np.int64) * b.astype(np.int64), call.integer("multiplier")))


def requantized(call: Call, x: Array) -> Array:
    """clamp(requantize(x, multiplier)): x on another scale, in another number of bits; x int8 or uint8."""
    return call.clamp(requantize(x.astype(np.int64), call.integer("multiplier")))


def lookup(call: Call, x: Array, table: Array) -> Array:
    """table[x - least integer of x's dtype]; table (256,) int8 or uint8."""
    return np.asarray(table[x.astype(np.int64) - np.iinfo(x.dtype).min])


def reshape(call: Call, x: Array) -> Array:
    """The same elements in row-major order in attribute `shape`; at most one size is -1 (inferred)."""
    return x.reshape(call.sizes("shape"))


def transpose(call: Call, x: Array) -> Array:
    """Axis i of the output is axis perm[i] of x."""
    return x.transpose(call.sizes("perm"))


def concat(call: Call, *parts: Array) -> Array:
    """The parts one after the other along attribute `axis`; all have the output's scale."""
    return np.asarray(np.concatenate(parts, axis=call.integer("axis")))


def select(call: Call, x: Array) -> Array:
    """Element `index` of axis `axis`, which is dropped."""
    return np.asarray(np.take(x, call.integer("index"), axis=call.integer("axis")))


def mean_pool(call: Call, x: Array, attention_mask: Array, offset: Array) -> Array:
    """(2 * 2**8 * sum_s x + n) // (2 * n) + offset over the unmasked positions s, n >= 1 their number.

    x int8 (B, S, C), attention_mask int64 (B, S), offset int32 (C,) -> int32 (B, C) in units of
    scale_x / 2**8. A row with no unmasked position gives `offset`.
    """
    seen = (attention_mask != 0)[..., None]
    total = np.where(seen, x, 0).astype(np.int64).sum(axis=1)
    count = np.maximum(seen.astype(np.int64).sum(axis=1), 1)
    mean = (2 * 2**WIDEN_SHIFT * total + count) // (2 * count)
    return np.asarray(mean + offset, dtype=np.int32)


def widen(call: Call, x: Array, offset: Array) -> Array:
    """x * 2**8 + offset: int8 (..., C) -> int32 in units of scale_x / 2**8; offset int32 (C,)."""
    return np.asarray(x.astype(np.int64) * 2**WIDEN_SHIFT + offset, dtype=np.int32)


OPERATORS: dict[Op, Callable[..., Array]] = {
    Op.EMBEDDING: embedding,
    Op.ONE_HOT: one_hot,
    Op.SLICE: slice_rows,
    Op.LINEAR: linear,
    Op.MATMUL: matmul,
    Op.MASK: mask,
    Op.SOFTMAX: softmax,
    Op.TABLE_SOFTMAX: softmax,
    Op.LOG_SUM_SOFTMAX: log_sum_softmax,
    Op.MEAN_MATMUL: mean_matmul,
    Op.RELATIVE_MATMUL: relative_matmul,
    Op.ZERO_PAD: zero_pad,
    Op.CROP: crop,
    Op.SHIFT: shift,
    Op.WINDOWS: windows,
    Op.ADD: add,
    Op.MUL: mul,
    Op.REQUANTIZE: requantized,
    Op.LOOKUP: lookup,
    Op.RESHAPE: reshape,
    Op.TRANSPOSE: transpose,
    Op.CONCAT: concat,
    Op.SELECT: select,
    Op.MEAN_POOL: mean_pool,
    Op.WIDEN: widen,
    Op.CONV: convolution,
    Op.MAX_POOL: max_pool,
    Op.PREPEND: prepend,
}
"""What each operator computes: f(call, *inputs) -> output, inputs in the order of Node.inputs."""


def run_nodes(
    graph: QuantizedGraph, nodes: Iterable[Node], values: Mapping[str, Array], dims: Mapping[str, int]
) -> dict[str, Array]:
    """Values by name with those that some nodes give, in order: what the host does around a chip's file."""
    known = dict(values)
    for node in nodes:
        inputs = [known[n] if n in known else graph.constants[n] for n in node.inputs]
        known[node.output] = run_node(node, inputs, graph.tensors[node.output], dims)
    return known


def run_node(node: Node, inputs: Iterable[Array], output: TensorSpec, dims: Mapping[str, int]) -> Array:
    """Execute one node on the arrays of its inputs (tensors and constants in the node's order).

    Raises:
        ArchNetError: the operator is not one of the integer network, or an id is out of range.
    """
    if node.op not in OPERATORS:
        raise ArchNetError(
            f"{node.name}: {node.op} is no operator of the integer network",
            fix="run archnet convert again with this version of archnet",
        )
    return OPERATORS[node.op](Call(node, output, dims), *inputs)


def execute(
    graph: QuantizedGraph, feeds: Mapping[str, Array], names: Iterable[str] | None = None
) -> dict[str, Array]:
    """Run the network.

    Args:
        feeds: one integer array for each of graph.inputs (`archnet.backends.base.feed` makes them).
        names: the tensors wanted; by default those of graph.outputs.

    Returns:
        The wanted tensors by name. The others are forgotten after their last use.
    """
    wanted = set(names) if names is not None else {output.tensor for output in graph.outputs}
    unknown = sorted(wanted - set(graph.tensors) - set(feeds))
    if unknown:
        raise ArchNetError(
            f"the network {graph.name} has no tensor {', '.join(unknown)}",
            fix="take names from graph.tensors",
        )
    dims = bind_dims(graph, feeds)
    last_use = {name: i for i, node in enumerate(graph.nodes) for name in node.inputs}
    values: dict[str, Array] = dict(feeds)
    for i, node in enumerate(graph.nodes):
        inputs = [values[n] if n in values else graph.constants[n] for n in node.inputs]
        values[node.output] = run_node(node, inputs, graph.tensors[node.output], dims)
        for name in {*node.inputs, node.output}:
            if name in values and name not in wanted and last_use.get(name, i) == i:
                del values[name]
    return {name: values[name] for name in wanted}


def bind_dims(graph: QuantizedGraph, feeds: Mapping[str, Array]) -> dict[str, int]:
    """The values of "batch" and "sequence" in these feeds."""
    return {
        dim: size
        for spec in graph.inputs
        for dim, size in zip(spec.shape, feeds[spec.name].shape, strict=True)
        if isinstance(dim, str)
    }


def _check_ids(call: Call, ids: Array, count: int) -> None:
    if ids.size and (int(ids.min()) < 0 or int(ids.max()) >= count):
        raise ArchNetError(
            f"{call.node.name}: an id lies outside 0 .. {count - 1} ({int(ids.min())} .. {int(ids.max())})",
            fix="tokenize with the tokenizer in the build folder",
        )
