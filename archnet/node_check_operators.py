"""Checks of single nodes of a QuantizedGraph: inputs, attributes, constants, shapes, accumulators.

`OPERATORS` lists the check of each operator. Each gives the shape that the output must have.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from archnet.calibration.affine import MAX_MULTIPLIER, accumulator_factor
from archnet.calibration.log_sum import MOST_SHIFT
from archnet.graph import WIDEN_SHIFT, Dim, Node, QuantizedGraph, TensorSpec
from archnet.node_check import (
    MAX_SEQUENCE,
    SOFTMAX_ONE,
    SYMBOLS,
    Fault,
    NodeCheck,
    Shape,
    check_factor,
    check_range,
    check_weighted,
    magnitude,
    require,
    scale_of,
)
from archnet.node_check_image import IMAGE_OPERATORS
from archnet.operators import Op


def check_node(graph: QuantizedGraph, node: Node, known: set[str]) -> None:
    """Check a node, given the tensors made before it.

    Raises:
        Fault: with the node's name.
    """
    try:
        for name in node.inputs:
            made = name in known or name in graph.constants
            require(made, f"reads {name}, which is no constant and not made before it")
        require(node.op in OPERATORS, f"{node.op} is no operator of the integer network")
        count, check = OPERATORS[node.op]
        fits = len(node.inputs) == count or (count < 0 and len(node.inputs) >= -count)
        require(fits, f"has {len(node.inputs)} inputs")
        output, shape = graph.tensors[node.output], check(NodeCheck(graph, node))
        require(shape == output.shape, f"its output has shape {output.shape}, not {shape}")
    except Fault as fault:
        raise Fault(f"{node.name} ({node.op}): {fault}") from None


def _linear(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    width = x.shape[-1]
    require(isinstance(width, int), f"its input {x.name} has no fixed width")
    assert isinstance(width, int)
    weight = c.constant(1, "int8", (None, width))
    check_weighted(c, x, weight)
    return (*x.shape[:-1], int(weight.shape[0]))


def _matmul(c: NodeCheck) -> Shape:
    a, b = c.tensor(0, "int8", "uint8"), c.tensor(1, "int8", "uint8")
    c.output_is("int8", "uint8")
    multiplier = c.integer("multiplier", 1, MAX_MULTIPLIER)
    transpose = c.node.attributes.get("transpose_b", False)
    require(isinstance(transpose, bool), f"attribute transpose_b is {transpose!r}, not a bool")
    require(len(a.shape) == len(b.shape) >= 2, f"multiplies {a.shape} by {b.shape}")
    depth_b, width = (b.shape[-1], b.shape[-2]) if transpose else (b.shape[-2], b.shape[-1])
    require(a.shape[-1] == depth_b and a.shape[:-2] == b.shape[:-2], f"multiplies {a.shape} by {b.shape}")
    c.accumulates(c.extent(a.shape[-1]) * magnitude(a) * magnitude(b))
    check_factor(accumulator_factor(scale_of(a), scale_of(b), scale_of(c.output)), np.asarray(multiplier))
    return (*a.shape[:-1], width)


def _mean_matmul(c: NodeCheck) -> Shape:
    a, b = c.tensor(0, "int8", "uint8"), c.tensor(1, "int8", "uint8")
    c.output_is("int8", "uint8")
    good = len(a.shape) == len(b.shape) == 4 and a.shape[-1] == b.shape[-2] and a.shape[:-2] == b.shape[:-2]
    require(good, f"multiplies {a.shape} by {b.shape}")
    multipliers = c.constant(2, "int32", (None,))
    check_range(c.node.inputs[2], multipliers, (1, MAX_MULTIPLIER))
    keys = c.extent(a.shape[-1])
    require(len(multipliers) >= keys, f"has {len(multipliers)} multipliers for {keys} positions")
    if len(c.node.inputs) > 3:
        mask = c.tensor(3, "int64")
        require(mask.shape == (a.shape[0], a.shape[-1]), f"masks {a.shape} by {mask.shape}")
    c.accumulates(keys * magnitude(a) * magnitude(b))
    return (*a.shape[:-1], b.shape[-1])


def _relative_matmul(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8")
    c.output_is("int8")
    require(len(x.shape) == 4, f"multiplies {x.shape}")
    batch, heads, tokens, width = x.shape
    good = isinstance(heads, int) and isinstance(width, int)
    require(good, f"its input {x.name} has shape {x.shape}")
    assert isinstance(heads, int)
    assert isinstance(width, int)
    table = c.constant(1, "int8", (heads, None, width))
    rows, longest = table.shape[1], c.extent(tokens)
    enough = rows % 2 == 1 and rows >= 2 * longest - 1
    require(enough, f"has {rows} rows for the distances of {longest} positions")
    (scale,) = c.constant(2, "float32", (1,))
    require(bool(scale > 0), "its table's scale is not positive")
    c.accumulates(int(np.abs(table.astype(np.int64)).sum(axis=-1).max()) * magnitude(x))
    multiplier = c.integer("multiplier", 1, MAX_MULTIPLIER)
    check_factor(accumulator_factor(scale_of(x), scale, scale_of(c.output)), np.asarray(multiplier))
    return (batch, heads, tokens, tokens)


def _zero_pad(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    c.output_like(x)
    positions = c.output.shape[1] if len(c.output.shape) == 3 else None
    good = len(x.shape) == 3 and isinstance(positions, int) and positions >= c.extent(x.shape[1])
    require(good, f"makes {c.output.shape} of {x.shape}")
    assert isinstance(positions, int)
    if len(c.node.inputs) > 1:
        mask = c.tensor(1, "int64")
        require(mask.shape == x.shape[:2], f"masks {x.shape} by {mask.shape}")
    return (x.shape[0], positions, x.shape[2])


def _crop(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    c.output_like(x)
    size = x.shape[1] if len(x.shape) == 3 else None
    good = isinstance(size, int) and size >= c.graph.max_sequence
    require(good, f"crops {x.shape} to {c.graph.max_sequence} positions")
    return (x.shape[0], "sequence", x.shape[2])


def _shift(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    c.output_like(x)
    require(len(x.shape) == 3, f"moves {x.shape}, which are no tokens")
    by = c.integer("by", -MAX_SEQUENCE, MAX_SEQUENCE)
    require(by != 0, "moves tokens by 0 places")
    return x.shape


def _embedding(c: NodeCheck) -> Shape:
    ids = c.tensor(0, "int64")
    table = c.constant(1, c.output.dtype, (None, None))
    c.output_is("int8", "uint8")
    check_range(c.node.inputs[1], table, c.output.range)
    return (*ids.shape, int(table.shape[1]))


def _one_hot(c: NodeCheck) -> Shape:
    ids = c.tensor(0, "int64")
    depth = c.integer("depth", 1, 2**24)
    c.output_is("uint8")
    require(c.output.bits == 1, f"its output has {c.output.bits} bits, not 1")
    require(len(ids.shape) in (2, 3), f"its input has shape {ids.shape}")
    digits = ids.shape[2] if len(ids.shape) == 3 else 1
    require(isinstance(digits, int), f"its input has shape {ids.shape}")
    assert isinstance(digits, int)
    return (*ids.shape[:2], digits * depth)


def _slice(c: NodeCheck) -> Shape:
    c.output_is("int8", "uint8")
    given = c.graph.constants.get(c.node.inputs[0])
    pairs = given is not None and given.ndim == 3
    table = c.constant(0, c.output.dtype, (None,) * (3 if pairs else 2))
    check_range(c.node.inputs[0], table, c.output.range)
    positions: Dim = c.output.shape[-2]
    for rows, wanted in zip(table.shape[-2:], c.output.shape[-2:] if pairs else [positions], strict=False):
        require(rows >= c.extent(wanted), f"has {rows} rows for {c.extent(wanted)} positions")
    if pairs:
        return (int(table.shape[0]), *c.output.shape[-2:])
    batch: Shape = ("batch",) if len(c.output.shape) == 3 else ()
    return (*batch, positions, int(table.shape[1]))


def _mask(c: NodeCheck) -> Shape:
    x, mask = c.tensor(0, "int8"), c.tensor(1, "int64")
    c.output_like(x)
    good = len(x.shape) >= 2 and mask.shape == (x.shape[0], x.shape[-1])
    require(good, f"masks {x.shape} by {mask.shape}")
    return x.shape


def _softmax(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8")
    table = c.constant(1, "int32", (256,))
    check_range(c.node.inputs[1], table, (0, SOFTMAX_ONE))
    require(int(table[0]) == SOFTMAX_ONE, f"its table begins with {table[0]}, not {SOFTMAX_ONE}")
    require(bool((np.diff(table) <= 0).all()), "its table rises")
    c.output_is("uint8")
    most = 2**c.output.bits
    known = [np.float32(1 / levels) for levels in (most - 1, most)]
    wrong = f"its output's scale is {c.output.scale}, neither 1/{most - 1} nor 1/{most}"
    require(np.float32(scale_of(c.output)) in known, wrong)
    require(c.extent(x.shape[-1]) <= MAX_SEQUENCE, f"spans more than {MAX_SEQUENCE} positions")
    return x.shape


def _log_sum_softmax(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8")
    for index, dtype in ((1, "int32"), (2, "int32"), (3, "uint8")):
        name, table = c.node.inputs[index], c.constant(index, dtype, (256,))
        check_range(name, table, c.output.range if index == 3 else (0, 255))
        falls = bool((np.diff(table.astype(np.int64)) <= 0).all())
        rises = bool((np.diff(table.astype(np.int64)) >= 0).all())
        require(rises if index == 2 else falls, f"its table {name} {'falls' if index == 2 else 'rises'}")
    c.output_is("uint8")
    c.integer("multiplier", 1, MAX_MULTIPLIER)
    c.integer("shift", 0, MOST_SHIFT)
    require(c.extent(x.shape[-1]) <= MAX_SEQUENCE, f"spans more than {MAX_SEQUENCE} positions")
    return x.shape


def _add(c: NodeCheck) -> Shape:
    a, b = c.tensor(0, "int8", "uint8"), c.tensor(1, "int8", "uint8")
    c.output_is("int8", "uint8")
    total = 0
    for name, spec in (("multiplier_a", a), ("multiplier_b", b)):
        total += c.integer(name, 1, MAX_MULTIPLIER) * magnitude(spec)
    c.accumulates(total)
    return _broadcast(a.shape, b.shape, "adds {} to {}")


def _mul(c: NodeCheck) -> Shape:
    a, b = c.tensor(0, "int8", "uint8"), c.tensor(1, "int8", "uint8")
    c.output_is("int8", "uint8")
    multiplier = c.integer("multiplier", 1, MAX_MULTIPLIER)
    check_factor(accumulator_factor(scale_of(a), scale_of(b), scale_of(c.output)), np.asarray(multiplier))
    return _broadcast(a.shape, b.shape, "multiplies {} by {}")


def _broadcast(a: Shape, b: Shape, joined: str) -> Shape:
    rank = max(len(a), len(b))
    pairs = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    shape: list[Dim] = []
    for i, j in pairs:
        require(i == j or 1 in (i, j), joined.format(a, b))
        shape.append(j if i == 1 else i)
    return tuple(shape)


def _requantize(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    c.output_is("int8", "uint8")
    multiplier = c.integer("multiplier", 1, MAX_MULTIPLIER)
    check_factor(accumulator_factor(scale_of(x), 1.0, scale_of(c.output)), np.asarray(multiplier))
    return x.shape


def _lookup(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8")
    c.output_is("int8", "uint8")
    table = c.constant(1, c.output.dtype, (256,))
    check_range(c.node.inputs[1], table, c.output.range)
    function = c.node.attributes.get("function")
    require(isinstance(function, str), f"attribute function is {function!r}, not a name")
    return x.shape


def _reshape(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8", "int32")
    c.output_like(x)
    wanted = c.sizes("shape")
    good = all(dim in SYMBOLS if isinstance(dim, str) else dim >= 1 or dim == -1 for dim in wanted)
    require(good and wanted.count(-1) <= 1, f"attribute shape is {wanted}")
    have_size, have_symbols = _volume(x.shape)
    size, symbols = _volume(tuple(dim for dim in wanted if dim != -1))
    if -1 in wanted:
        missing = [symbol for symbol in have_symbols if symbol not in symbols]
        good = have_size % size == 0 and sorted(symbols + missing) == have_symbols and len(missing) <= 1
        good = good and not (missing and have_size != size)
        require(good, f"makes {wanted} of {x.shape}")
        inferred: Dim = missing[0] if missing else have_size // size
        return tuple(inferred if dim == -1 else dim for dim in wanted)
    require((size, symbols) == (have_size, have_symbols), f"makes {wanted} of {x.shape}")
    return wanted


def _volume(shape: Shape) -> tuple[int, list[str]]:
    return math.prod(d for d in shape if isinstance(d, int)), sorted(d for d in shape if isinstance(d, str))


def _transpose(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8", "int32")
    c.output_like(x)
    perm = c.sizes("perm")
    axes = [axis for axis in perm if isinstance(axis, int)]
    require(sorted(axes) == list(range(len(x.shape))), f"attribute perm is {perm} for {x.shape}")
    return tuple(x.shape[axis] for axis in axes)


def _concat(c: NodeCheck) -> Shape:
    parts = [c.tensor(i, "int8", "uint8") for i in range(len(c.node.inputs))]
    rank = len(parts[0].shape)
    axis = c.integer("axis", -rank, rank - 1) % rank
    total = 0
    for part in parts:
        c.output_like(part)
        others = part.shape[:axis] + part.shape[axis + 1 :]
        first = parts[0].shape[:axis] + parts[0].shape[axis + 1 :]
        size = part.shape[axis] if len(part.shape) == rank else None
        require(others == first and isinstance(size, int), f"joins {parts[0].shape} and {part.shape}")
        assert isinstance(size, int)
        total += size
    return (*parts[0].shape[:axis], total, *parts[0].shape[axis + 1 :])


def _select(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8", "uint8", "int32")
    c.output_like(x)
    rank = len(x.shape)
    axis = c.integer("axis", -rank, rank - 1) % rank
    size = x.shape[axis]
    # Of an axis whose size is not known only the first and the last element are always there.
    low, high = (-1, 0) if isinstance(size, str) else (-size, size - 1)
    c.integer("index", low, high)
    return x.shape[:axis] + x.shape[axis + 1 :]


def _mean_pool(c: NodeCheck) -> Shape:
    x, mask = c.tensor(0, "int8"), c.tensor(1, "int64")
    require(len(x.shape) == 3 and mask.shape == x.shape[:2], f"pools {x.shape} by {mask.shape}")
    # Twice the sum in units of scale / 2**8, plus the rounding term.
    c.accumulates(c.extent(x.shape[1]) * (magnitude(x) * 2 ** (WIDEN_SHIFT + 1) + 1))
    _check_widened(c, x, 2)
    return (x.shape[0], x.shape[2])


def _widen(c: NodeCheck) -> Shape:
    x = c.tensor(0, "int8")
    _check_widened(c, x, 1)
    return x.shape


def _check_widened(c: NodeCheck, x: TensorSpec, index: int) -> None:
    width = x.shape[-1]
    require(isinstance(width, int), f"its input {x.name} has no fixed width")
    assert isinstance(width, int)
    offset = c.constant(index, "int32", (width,))
    c.output_is("int32")
    c.accumulates(int(np.abs(offset.astype(np.int64)).max()) + magnitude(x) * 2**WIDEN_SHIFT)


OPERATORS: dict[Op, tuple[int, Callable[[NodeCheck], Shape]]] = {
    Op.EMBEDDING: (2, _embedding),
    Op.ONE_HOT: (1, _one_hot),
    Op.SLICE: (1, _slice),
    Op.LINEAR: (5, _linear),
    Op.MATMUL: (2, _matmul),
    Op.MASK: (2, _mask),
    Op.SOFTMAX: (2, _softmax),
    Op.TABLE_SOFTMAX: (2, _softmax),
    Op.LOG_SUM_SOFTMAX: (4, _log_sum_softmax),
    Op.MEAN_MATMUL: (-3, _mean_matmul),
    Op.RELATIVE_MATMUL: (3, _relative_matmul),
    Op.ZERO_PAD: (-1, _zero_pad),
    Op.CROP: (1, _crop),
    Op.SHIFT: (1, _shift),
    Op.ADD: (2, _add),
    Op.MUL: (2, _mul),
    Op.REQUANTIZE: (1, _requantize),
    Op.LOOKUP: (2, _lookup),
    Op.RESHAPE: (1, _reshape),
    Op.TRANSPOSE: (1, _transpose),
    Op.CONCAT: (-1, _concat),
    Op.SELECT: (1, _select),
    Op.MEAN_POOL: (3, _mean_pool),
    Op.WIDEN: (2, _widen),
    **IMAGE_OPERATORS,
}
"""The number of inputs (-n: n or more) and the check of each operator; a check gives the output's shape."""
