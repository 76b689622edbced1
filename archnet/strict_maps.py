"""Convolutions and pooling of an integer network in the paper's strict family, integer by integer the same.

    convolution  any kernel, stride, padding and number of groups -> 3x3, stride 1, padding 1, dense
    max-pooling  any kernel, stride 1 or 2                         -> 2x2, stride 1 or 2
    average      of a whole map                                    -> fully connected over its positions

**Space to depth.** With a map cut into blocks of f x f, each block's pixels side by side as channels, a
convolution of stride s = f / b becomes one of stride 1 over the blocks that gives b x b results a block.
Pixel s q + i - p of result q = 0 .. b - 1 and tap i lies in block floor((s q + i - p) / f), so that three
blocks are enough wherever p <= f and k - p - s <= f: for 3x3 of stride 1 or 2 and for patches b = 1, for
5x5 b = 2, for 7x7 of stride 2 b = 2. Cutting and joining are reshapes and transposes; the new kernel has
the old one's weights and zeros.

**Maxima.** max(x[-1], x[0], x[1]) = max(max(x[-1], x[0]), max(x[0], x[1])): every step of stride 1 makes
the window one larger.

More than 512 output channels are divided among several convolutions and concatenated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archnet.errors import ArchNetError
from archnet.graph import AttributeValue, Dim, Node, QuantizedGraph, TensorSpec
from archnet.operators import Op

MOST_CHANNELS = 512
LARGEST_BLOCK = 8
"""Results along one axis of a block: b in the module's text."""


def as_strict_maps(graph: QuantizedGraph) -> QuantizedGraph:
    """The same integers from convolutions of 3x3 and maxima of 2x2.

    Raises:
        ArchNetError: a convolution or pooling has no such form; the node and the reason are named.
    """
    rewriter = _Rewriter(graph, dict(graph.tensors), dict(graph.constants))
    for node in graph.nodes:
        if node.op is Op.CONV:
            rewriter.convolution(node)
        elif node.op is Op.MAX_POOL:
            rewriter.max_pool(node)
        else:
            rewriter.nodes.append(node)
    used = {name for node in rewriter.nodes for name in node.inputs}
    used |= {host.table for host in graph.host_tables}
    constants = {name: value for name, value in rewriter.constants.items() if name in used}
    return replace(graph, nodes=tuple(rewriter.nodes), tensors=rewriter.tensors, constants=constants)


@dataclass(frozen=True, slots=True)
class Axis:
    """How one axis of a convolution is cut: f pixels a block, b results a block."""

    kernel: int
    stride: int
    pad: int
    results: int

    @property
    def pixels(self) -> int:
        """f."""
        return self.stride * self.results

    @classmethod
    def find(cls, kernel: int, stride: int, pad: int, before: int, after: int) -> Axis | None:
        """The smallest blocks of which three are enough, or None."""
        for results in range(1, LARGEST_BLOCK + 1):
            axis = cls(kernel, stride, pad, results)
            fits = pad <= axis.pixels and kernel - pad - stride <= axis.pixels
            whole = before % axis.pixels == 0 and after * stride == before and after % results == 0
            if fits and whole:
                return axis
        return None

    def place(self, result: int, tap: int) -> tuple[int, int]:
        """(tap of the new kernel, pixel of the block) that a result's tap of the old kernel reads."""
        block, pixel = divmod(self.stride * result + tap - self.pad, self.pixels)
        return block + 1, pixel


def axes_of(
    kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int], sizes: Sequence[tuple[int, int]]
) -> tuple[Axis | None, Axis | None]:
    """How a convolution's map is cut along its height and width; `sizes` are those before and after."""
    down, across = (Axis.find(kernel[i], strides[i], pads[i], *sizes[i]) for i in range(2))
    return down, across


def convolution_problem(axes: tuple[Axis | None, Axis | None], channels: int) -> str | None:
    """Why a convolution that reads so many channels has no form in the family, or None."""
    down, across = axes
    if down is None or across is None:
        return "its map is no whole number of blocks, or it shrinks the map at its edges"
    inputs = channels * down.pixels * across.pixels
    if inputs <= MOST_CHANNELS:
        return None
    return f"it reads {inputs} channels in blocks, more than {MOST_CHANNELS}, and sums are not split"


def pooling_problem(kernel: Sequence[int], strides: Sequence[int], pads: Sequence[int]) -> str | None:
    """Why a maximum over a window has no form in the family, or None."""
    alike = kernel[0] == kernel[1] and strides[0] == strides[1]
    if not alike or strides[0] > 2 or kernel[0] < 2:
        return f"a maximum over {tuple(kernel)} in steps of {tuple(strides)} is no chain of 2x2"
    steps = kernel[0] - strides[0]
    return None if max(pads) <= steps else f"its padding is more than the {steps} steps of its chain"


def blocked_weights(weight: NDArray[Any], groups: int, down: Axis, across: Axis) -> NDArray[np.int8]:
    """The kernel over blocks.

    Args:
        weight: int8 (channels, inputs / groups, height, width).

    Returns:
        int8 (b_y * b_x * channels, f_y * f_x * inputs, 3, 3), results and pixels outermost.
    """
    rows, depth = weight.shape[:2]
    share = rows // groups
    made = np.zeros(
        (down.results, across.results, rows, down.pixels, across.pixels, depth * groups, 3, 3), np.int8
    )
    for group in range(groups):
        outs, ins = slice(group * share, (group + 1) * share), slice(group * depth, (group + 1) * depth)
        for qy, qx, i, j in np.ndindex(down.results, across.results, down.kernel, across.kernel):
            (ky, ry), (kx, rx) = down.place(qy, i), across.place(qx, j)
            made[qy, qx, outs, ry, rx, ins, ky, kx] = weight[outs, :, i, j]
    return made.reshape(down.results * across.results * rows, -1, 3, 3)


@dataclass
class _Rewriter:
    graph: QuantizedGraph
    tensors: dict[str, TensorSpec]
    constants: dict[str, NDArray[Any]]
    nodes: list[Node] = field(default_factory=list)

    def convolution(self, node: Node) -> None:
        """A convolution over blocks, or a fully connected layer over all positions."""
        x, out = self.tensors[node.inputs[0]], self.tensors[node.output]
        weight = self.constants[node.inputs[1]]
        strides, pads, groups = (_numbers(node, name) for name in ("strides", "pads", "groups"))
        if self._averages(node, x, weight, pads, groups[0]):
            self._over_positions(node, x, out, weight)
            return
        sizes = [(int(x.shape[2 + i]), int(out.shape[2 + i])) for i in range(2)]
        axes = axes_of(weight.shape[2:], strides, pads, sizes)
        problem = convolution_problem(axes, int(x.shape[1]))
        if problem is not None:
            raise _refused(node, problem)
        down, across = axes
        assert down is not None
        assert across is not None
        self._blocked(node, blocked_weights(weight, groups[0], down, across), down, across)

    def _blocked(self, node: Node, weight: NDArray[np.int8], down: Axis, across: Axis) -> None:
        x, out = self.tensors[node.inputs[0]], self.tensors[node.output]
        source = self._to_depth(node, x, down.pixels, across.pixels)
        blocks = self.tensors[source].shape[2:]
        results = down.results * across.results
        bias, multiplier, scale = (np.tile(self.constants[name], results) for name in node.inputs[2:5])
        bits = node.attributes["weight_bits"]
        assert isinstance(bits, int)
        if bits == 2:
            bits = 3  # an odd grid of two bits has no 0
        whole = results == 1 and len(weight) <= MOST_CHANNELS
        parts = []
        for start in range(0, len(weight), MOST_CHANNELS):
            rows = slice(start, start + MOST_CHANNELS)
            suffix = "" if whole else f"/part {start // MOST_CHANNELS}"
            part = replace(out, name=f"{out.name}{suffix}", shape=("batch", len(weight[rows]), *blocks))
            names = [f"{node.name}{suffix}/{role}" for role in ("weight", "bias", "multiplier", "scale")]
            values = (weight[rows], bias[rows], multiplier[rows], scale[rows])
            self.constants |= dict(zip(names, values, strict=True))
            attributes: dict[str, AttributeValue] = {
                "strides": (1, 1), "pads": (1, 1, 1, 1), "groups": 1, "weight_bits": bits
            }  # fmt: skip
            self._add(Op.CONV, node, suffix, (source, *names), part, attributes)
            parts.append(part.name)
        if whole:
            return
        joined = parts[0]
        if len(parts) > 1:
            joined = f"{out.name}/parts"
            spec = replace(out, name=joined, shape=("batch", len(weight), *blocks))
            self._add(Op.CONCAT, node, "/parts", tuple(parts), spec, {"axis": 1})
        self._from_depth(node, joined, out, down.results, across.results)

    def _to_depth(self, node: Node, x: TensorSpec, fy: int, fx: int) -> str:
        """(B, C, H, W) -> (B, fy * fx * C, H / fy, W / fx)."""
        if (fy, fx) == (1, 1):
            return x.name
        channels, height, width = (int(size) for size in x.shape[1:])
        cut: tuple[Dim, ...] = ("batch", channels, height // fy, fy, width // fx, fx)
        turned: tuple[Dim, ...] = ("batch", fy, fx, channels, height // fy, width // fx)
        deep: tuple[Dim, ...] = ("batch", fy * fx * channels, height // fy, width // fx)
        name = self._moved(node, Op.RESHAPE, "cut", x.name, cut, {"shape": cut})
        name = self._moved(node, Op.TRANSPOSE, "turned", name, turned, {"perm": (0, 3, 5, 1, 2, 4)})
        return self._moved(node, Op.RESHAPE, "deep", name, deep, {"shape": deep})

    def _from_depth(self, node: Node, name: str, out: TensorSpec, by: int, bx: int) -> None:
        """(B, by * bx * N, H', W') -> (B, N, by * H', bx * W'), as the node's own output."""
        channels, height, width = (int(size) for size in out.shape[1:])
        if (by, bx) != (1, 1):
            cut: tuple[Dim, ...] = ("batch", by, bx, channels, height // by, width // bx)
            turned: tuple[Dim, ...] = ("batch", channels, height // by, by, width // bx, bx)
            name = self._moved(node, Op.RESHAPE, "results", name, cut, {"shape": cut})
            name = self._moved(node, Op.TRANSPOSE, "placed", name, turned, {"perm": (0, 3, 4, 1, 5, 2)})
        self._add(Op.RESHAPE, node, "", (name,), out, {"shape": out.shape})

    def _averages(
        self, node: Node, x: TensorSpec, weight: NDArray[Any], pads: tuple[int, ...], groups: int
    ) -> bool:
        """Whether the node is the mean of every channel over its whole map."""
        bias, multiplier = self.constants[node.inputs[2]], self.constants[node.inputs[3]]
        alone = groups == x.shape[1] == len(weight) and weight.shape[2:] == x.shape[2:]
        alike = len(set(multiplier.tolist())) == 1 and len({row.tobytes() for row in weight}) == 1
        return alone and alike and not any(pads) and not bias.any()

    def _over_positions(self, node: Node, x: TensorSpec, out: TensorSpec, weight: NDArray[Any]) -> None:
        channels, positions = int(x.shape[1]), int(x.shape[2]) * int(x.shape[3])
        flat: tuple[Dim, ...] = ("batch", channels, positions)
        source = self._moved(node, Op.RESHAPE, "flat", x.name, flat, {"shape": flat})
        names = [f"{node.name}/{role}" for role in ("weight", "bias", "multiplier", "scale")]
        values = [weight[:1].reshape(1, positions), *(self.constants[name][:1] for name in node.inputs[2:5])]
        self.constants |= dict(zip(names, values, strict=True))
        spec = replace(out, name=f"{out.name}/mean", shape=("batch", channels, 1))
        attributes = {"weight_bits": node.attributes["weight_bits"]}
        self._add(Op.LINEAR, node, "/mean", (source, *names), spec, attributes)
        self._add(Op.RESHAPE, node, "", (spec.name,), out, {"shape": out.shape})

    def max_pool(self, node: Node) -> None:
        """Steps of 2x2 and stride 1 until one of the asked stride is left."""
        kernel, strides, pads = (_numbers(node, name) for name in ("kernel", "strides", "pads"))
        x, out = self.tensors[node.inputs[0]], self.tensors[node.output]
        problem = pooling_problem(kernel, strides, pads)
        if problem is not None:
            raise _refused(node, problem)
        last = strides[0] == 2
        steps = kernel[0] - (2 if last else 1)
        name, sizes = x.name, [int(size) for size in x.shape[2:]]
        for step in range(steps):
            before = [int(step < pads[i]) for i in range(2)]
            behind = [int(steps - 1 - step < pads[i + 2]) for i in range(2)]
            sizes = [sizes[i] + before[i] + behind[i] - 1 for i in range(2)]
            final = step == steps - 1 and not last
            name = self._maximum(node, name, out, sizes, 1, (*before, *behind), "" if final else f"/{step}")
        if last:
            self._maximum(node, name, out, [(size - 2) // 2 + 1 for size in sizes], 2, (0, 0, 0, 0), "")

    def _maximum(
        self,
        node: Node,
        x: str,
        out: TensorSpec,
        sizes: list[int],
        stride: int,
        pads: tuple[int, ...],
        end: str,
    ) -> str:
        spec = replace(out, name=f"{out.name}{end}", shape=(*out.shape[:2], *sizes))
        attributes: dict[str, AttributeValue] = {"kernel": (2, 2), "strides": (stride, stride), "pads": pads}
        return self._add(Op.MAX_POOL, node, end, (x,), spec, attributes)

    def _moved(
        self,
        node: Node,
        op: Op,
        part: str,
        source: str,
        shape: tuple[Dim, ...],
        attributes: dict[str, AttributeValue],
    ) -> str:
        spec = replace(self.tensors[source], name=f"{node.output}/{part}", shape=shape)
        return self._add(op, node, f"/{part}", (source,), spec, attributes)

    def _add(
        self,
        op: Op,
        node: Node,
        end: str,
        inputs: tuple[str, ...],
        spec: TensorSpec,
        attributes: dict[str, AttributeValue],
    ) -> str:
        self.tensors[spec.name] = spec
        self.nodes.append(Node(op, f"{node.name}{end}", inputs, spec.name, attributes, node.block))
        return spec.name


def _numbers(node: Node, name: str) -> tuple[int, ...]:
    value = node.attributes[name]
    values = value if isinstance(value, tuple) else (value,)
    return tuple(size for size in values if isinstance(size, int))


def _refused(node: Node, reason: str) -> ArchNetError:
    return ArchNetError(
        f"{node.name} ({node.op}) has no form in the strict family: {reason}",
        fix="choose another --target, or images of another size",
    )
