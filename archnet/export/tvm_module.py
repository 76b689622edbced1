"""QuantizedGraph -> integer Relax module: one call of a TensorIR kernel a node, sizes symbolic."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tvm import relax, tirx

from archnet.errors import ArchNetError
from archnet.export.tvm_attention import AttentionForm, attention_kernel, attention_numbers
from archnet.export.tvm_fusion import Group, OneHotGroup, find_groups
from archnet.export.tvm_image import Window, map_kernel, rows_spec, windows_kernel
from archnet.export.tvm_isa import Isa
from archnet.export.tvm_linear import LinearForm, linear_kernel, pack_linear
from archnet.export.tvm_operators import (
    OPERATORS,
    Operand,
    TableRows,
    operator_kernel,
    packed_gather_kernel,
    table_sum_kernel,
)
from archnet.export.tvm_packing import pack_runs
from archnet.export.tvm_tir import saturation_limit
from archnet.graph import Dim, Node, QuantizedGraph, TensorSpec
from archnet.operators import Op
from archnet.packed_constants import packed_constants

ENTRY = "main"
"""The function of the library: graph.inputs in order -> `result_names` in order."""


def result_names(graph: QuantizedGraph, *, tensors: bool) -> tuple[str, ...]:
    """The tensors that the library returns: the outputs', or every activation."""
    if tensors:
        return tuple(node.output for node in graph.nodes)
    return tuple(dict.fromkeys(output.tensor for output in graph.outputs))


def build_module(graph: QuantizedGraph, isa: Isa, *, tensors: bool = False, fuse: bool = True) -> Any:
    """The Relax module of a graph.

    Args:
        isa: what the fast kernels are built on.
        tensors: return every activation. Nothing is fused then, so that each exists.
        fuse: compute groups of nodes in one kernel, which has vectors whatever the isa.
    """
    return _ModuleBuilder(graph, isa, tensors=tensors, fuse=fuse and not tensors).build()


class _ModuleBuilder:
    def __init__(self, graph: QuantizedGraph, isa: Isa, *, tensors: bool, fuse: bool) -> None:
        self._graph = graph
        self._isa = isa
        self._tensors, self._fuse = tensors, fuse
        self._packings = packed_constants(graph)
        self._relax = relax.BlockBuilder()
        self._dims = {dim: tirx.Var(dim, "int64") for dim in ("batch", "sequence")}
        self._kernels: dict[Hashable, Any] = {}
        self._constants: dict[str, Any] = {}
        self._values: dict[str, Any] = {}

    def build(self) -> Any:
        """Emit every node and return the IRModule."""
        parameters = [relax.Var(_identifier(spec.name), self._type(spec)) for spec in self._graph.inputs]
        for spec, parameter in zip(self._graph.inputs, parameters, strict=True):
            self._values[spec.name] = parameter
        groups = find_groups(self._graph) if self._fuse else []
        last = {group.nodes[-1]: group for group in groups}
        inner = {name for group in groups for name in group.nodes[:-1]}
        with self._relax.function(ENTRY, parameters):
            with self._relax.dataflow():
                for node in self._graph.nodes:
                    if node.output in last:
                        self._group(last[node.output])
                    elif node.output not in inner:
                        self._values[node.output] = self._node(node)
                names = result_names(self._graph, tensors=self._tensors)
                results = self._relax.emit_output(relax.Tuple([self._values[name] for name in names]))
            self._relax.emit_func_output(results)
        return self._relax.get()

    def _node(self, node: Node) -> Any:
        output = self._graph.tensors[node.output]
        if node.op is Op.RESHAPE:
            sizes = relax.ShapeExpr([self._size(dim) for dim in output.shape])
            return self._relax.emit(relax.op.reshape(self._values[node.inputs[0]], sizes))
        if node.op is Op.LINEAR:
            return self._linear(node, output)
        if node.op is Op.EMBEDDING and (rows := self._gather(node, output)) is not None:
            return rows
        if node.op is Op.CONV and node.attributes["groups"] == 1:
            return self._convolution(node, output)
        if node.op not in OPERATORS:
            raise ArchNetError(
                f"{node.name}: the TVM exporter has no kernel for {node.op}",
                fix="export with --format onnx, or add it to archnet/export/tvm_operators.py",
            )
        operands = tuple(self._operand(name) for name in node.inputs)
        key = (
            node.op,
            operands,
            output.shape,
            output.dtype,
            output.bits,
            tuple(sorted(node.attributes.items())),
        )
        inputs = [self._value(name) for name in node.inputs]
        return self._call(
            key, node.op, lambda name: operator_kernel(node, operands, output, name), inputs, output
        )

    def _linear(self, node: Node, output: TensorSpec) -> Any:
        weight, bias, multiplier = (self._graph.constants[name] for name in node.inputs[1:4])
        x = self._graph.tensors[node.inputs[0]]
        form = LinearForm.of(self._isa, x, weight, output, self._packings.get(node.inputs[1]))
        packed = pack_linear(form, weight, bias, multiplier)
        inputs = [self._values[node.inputs[0]], *(relax.const(array) for array in packed)]
        return self._call(form, node.op, lambda name: linear_kernel(form, name), inputs, output)

    def _convolution(self, node: Node, output: TensorSpec) -> Any:
        """A dense convolution: windows as rows, a fully connected layer over them, rows as a map."""
        x = self._graph.tensors[node.inputs[0]]
        weight, bias, multiplier = (self._graph.constants[name] for name in node.inputs[1:4])
        window = Window.of(node, x.shape, weight.shape[2:])
        size = (int(output.shape[2]), int(output.shape[3]))
        matrix = weight.reshape(len(weight), -1)
        depth = -(-matrix.shape[1] // self._isa.depth) * self._isa.depth
        # What the windows are filled up with is 0, so any weight that can be packed may stand there.
        filling = int(matrix.flat[0])
        matrix = np.pad(matrix, ((0, 0), (0, depth - matrix.shape[1])), constant_values=filling)
        rows = TensorSpec(f"{node.name}/windows", (x.shape[0], size[0] * size[1], depth), x.dtype, x.bits)
        taken = self._call(
            ("windows", window, x.dtype, size, depth),
            "windows",
            lambda name: windows_kernel(window, x.dtype, size, depth, name),
            [self._values[x.name]],
            rows,
        )
        spec = rows_spec(output, f"{node.name}/rows")
        form = LinearForm.of(self._isa, rows, matrix, spec, self._packings.get(node.inputs[1]))
        inputs = [taken, *(relax.const(array) for array in pack_linear(form, matrix, bias, multiplier))]
        made = self._call(form, "convolution", lambda name: linear_kernel(form, name), inputs, spec)
        return self._call(
            ("map", output.dtype, output.shape),
            "map",
            lambda name: map_kernel(output.dtype, size, len(weight), name),
            [made],
            output,
        )

    def _group(self, group: Group) -> None:
        """Emit a group as one kernel, or its nodes where no kernel fits."""
        output = self._graph.tensors[group.nodes[-1]]
        if isinstance(group, OneHotGroup):
            self._values[output.name] = self._one_hot(group, output)
            return
        form = AttentionForm.of(self._isa, group, self._graph)
        if form is None:
            for node in self._graph.nodes:
                if node.output in group.nodes:
                    self._values[node.output] = self._node(node)
            return
        names = [group.query, group.key, group.value, *([group.mask] if group.mask else []), group.table]
        inputs = [*map(self._value, names), relax.const(attention_numbers(group, form))]
        self._values[output.name] = self._call(
            form, "attention", lambda name: attention_kernel(form, name), inputs, output
        )

    def _packed_rows(self, name: str, table: NDArray[Any]) -> tuple[NDArray[Any], TableRows]:
        """A table as its kernel reads it: packed where its rows fill whole bytes."""
        packing = self._packings.get(name)
        if packing is not None and table.shape[1] % (8 // packing.width) == 0:
            table = pack_runs(table, packing)
        else:
            packing = None
        return table, TableRows(table.shape, str(table.dtype), packing)

    def _gather(self, node: Node, output: TensorSpec) -> Any | None:
        """The look-up in a packed table; None where the table is not packed."""
        table, rows = self._packed_rows(node.inputs[1], self._graph.constants[node.inputs[1]])
        if rows.packing is None:
            return None
        ids = self._operand(node.inputs[0])
        key = ("packed_gather", ids, rows, output.shape, output.dtype)
        inputs = [self._values[node.inputs[0]], relax.const(table)]
        return self._call(
            key, "packed_gather", lambda name: packed_gather_kernel(ids, rows, output, name), inputs, output
        )

    def _one_hot(self, group: OneHotGroup, output: TensorSpec) -> Any:
        weight, bias, multiplier = (self._graph.constants[name] for name in group.linear.inputs[1:4])
        limits = [saturation_limit(int(m), output.range) for m in multiplier]
        columns = np.stack([bias, multiplier, limits]).astype(np.int32)
        table = np.ascontiguousarray(weight.T)
        ids = self._operand(group.ids)
        digits = ids.shape[2] if len(ids.shape) == 3 else 1
        assert isinstance(digits, int)
        depth = table.shape[0] // digits
        table, rows = self._packed_rows(group.linear.inputs[1], table)
        key = ("table_sum", ids, rows, output.shape, output.dtype, output.bits)
        inputs = [self._values[group.ids], relax.const(table), relax.const(columns)]
        return self._call(
            key, "table_sum", lambda name: table_sum_kernel(ids, rows, depth, output, name), inputs, output
        )

    def _call(
        self, key: Hashable, op: str, kernel: Callable[[str], Any], inputs: Sequence[Any], output: TensorSpec
    ) -> Any:
        """Call the kernel of this key, which is made at its first use."""
        if key not in self._kernels:
            name = f"{op.lower()}_{len(self._kernels)}"
            self._kernels[key] = self._relax.add_func(kernel(name), name)
        return self._relax.emit(
            relax.call_tir(self._kernels[key], relax.Tuple(list(inputs)), self._type(output))
        )

    def _operand(self, name: str) -> Operand:
        if name in self._graph.tensors:
            spec = self._graph.tensors[name]
            return Operand(spec.shape, spec.dtype, spec.bits)
        value = self._graph.constants[name]
        return Operand(value.shape, str(value.dtype))

    def _value(self, name: str) -> Any:
        if name in self._values:
            return self._values[name]
        if name not in self._constants:
            self._constants[name] = relax.const(np.ascontiguousarray(self._graph.constants[name]))
        return self._constants[name]

    def _size(self, dim: Dim) -> Any:
        return self._dims[dim] if isinstance(dim, str) else tirx.IntImm("int64", dim)

    def _type(self, spec: TensorSpec) -> Any:
        return relax.TensorType([self._size(dim) for dim in spec.shape], spec.dtype)


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in name)
