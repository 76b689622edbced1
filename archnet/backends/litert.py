"""LiteRT as a backend: the exported TFLite file in the interpreter that phones and microcontrollers have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from archnet.backends.tflite_file import Array, Runner, TfliteFileBackend
from archnet.errors import ArchNetError
from archnet.export.tflite import TfliteModel
from archnet.graph import QuantizedGraph

Kernels = Literal["xnnpack", "optimized", "reference"]

_RESOLVERS = {
    "xnnpack": OpResolverType.BUILTIN,
    "optimized": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


class LiteRtBackend(TfliteFileBackend):
    """Runs a TFLite file.

    Args:
        graph: the network that it was exported from.
        model: the file.
        kernels: "xnnpack", LiteRT's default; "optimized" or "reference", its own fixed-point ones.
        threads: of one operator; LiteRT's choice when None.
    """

    name = "litert"

    def __init__(
        self,
        graph: QuantizedGraph,
        model: TfliteModel,
        *,
        kernels: Kernels = "xnnpack",
        threads: int | None = None,
    ) -> None:
        self._kernels, self._threads = kernels, threads
        super().__init__(graph, model)

    @classmethod
    def with_threads(cls, graph: QuantizedGraph, model: TfliteModel, threads: int | None) -> Self:
        """A backend whose operators use so many threads."""
        return cls(graph, model, threads=threads)

    def open_model(self, model: TfliteModel) -> Runner:
        """An interpreter with the file in it."""
        try:
            interpreter = Interpreter(
                model_content=model.content,
                num_threads=self._threads,
                experimental_op_resolver_type=_RESOLVERS[self._kernels],
            )
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError) as error:
            raise ArchNetError(
                f"LiteRT cannot open the network: {str(error).strip().splitlines()[-1]}",
                fix="write the file again with archnet export DIR --format tflite",
            ) from error
        given = [detail["index"] for detail in interpreter.get_input_details()]
        shown = [detail["index"] for detail in interpreter.get_output_details()]

        def run(inputs: Sequence[Array]) -> list[Array]:
            for index, value in zip(given, inputs, strict=True):
                interpreter.set_tensor(index, value)
            interpreter.invoke()
            return [np.asarray(interpreter.get_tensor(index)) for index in shown]

        return run
