"""Driver of ExecuTorch's backend for Ethos-U: a TFLite file of integers to a program of one delegate.

ExecuTorch 1.5.1's `vela_compile` (backends/arm/arm_vela.py) runs Vela on the graph that it is given, which
Vela tells by its content, and packs what that makes for EthosUBackend. The backend would give it TOSA of a
model that its own quantizer has quantized; here it is given the TFLite file. Runs in the toolchain
`executorch`, with the PyTorch that Arch-Net runs with.

The runtime (backends/arm/runtime, EthosUBackend.cpp and VelaBinStream.cpp of 2026) copies inputs and outputs
by their place in the list, byte by byte, and refuses sizes and widths that are not Vela's, and streams that
do not lie at multiples of 16 bytes. It knows three regions: weights, the scratch memory, which inputs and
outputs are in, and `ethosu_fast_scratch`, which the firmware provides. All of that is checked here.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

BACKEND = "EthosUBackend"
STREAM = "out_vela.npz"
WEIGHTS, SCRATCH = 0, 1
"""Regions."""
_DIMENSIONS = 6
_ALIGNMENT = 16


def make_program(request: dict[str, Any]) -> dict[str, Any]:
    """`program` of the TFLite file `model`; what Vela prints goes to stdout, its tables to `folder`/output.

    Args:
        request: besides, `accelerator`, such as ethos-u55-128; `inputs` and `outputs` of the file in its
            order, each with `shape` and `dtype`; `torch`, the folder that PyTorch is in.

    Returns:
        `refused`, why Vela made nothing, or None: what it leaves to the CPU has then been printed, and
        `folder`/output has the TFLite file that it made instead. Otherwise `fast_scratch`, bytes that the
        firmware is to provide.
    """
    sys.path.append(request["torch"])  # behind this environment's own packages
    from executorch.backends.arm.arm_vela import vela_compile  # type: ignore[import-not-found]
    from executorch.backends.arm.ethosu import EthosUCompileSpec  # type: ignore[import-not-found]

    os.chdir(request["folder"])  # vela_compile splits its arguments at blanks
    spec = EthosUCompileSpec(request["accelerator"])
    reports = ["--verbose-performance", "--show-cpu-operations"]
    content = Path(request["model"]).read_bytes()
    try:
        stream = vela_compile(content, [*spec.compiler_flags, *reports], intermediate_path=".")
    except RuntimeError as error:
        _report(spec.compiler_flags, reports)
        return {"refused": str(error)}
    fast = _checked(Path("output") / STREAM, request["inputs"], request["outputs"])
    made = _program(spec, stream.processed_bytes, request["inputs"], request["outputs"])
    _check(made, stream.processed_bytes, request["inputs"], request["outputs"])
    Path(request["program"]).write_bytes(made)
    return {"refused": None, "fast_scratch": fast}


def _report(flags: list[str], reports: list[str]) -> None:
    """Have Vela say what it leaves to the CPU: of a raw stream it does not."""
    from ethosu.vela import vela  # type: ignore[import-not-found]

    kept = [flag for flag in flags if not flag.startswith("--output-format")]
    vela.main([*kept, *reports, "--output-dir", "output", "out.tosa"])


def _checked(path: Path, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> int:
    """The bytes of fast scratch memory, once inputs, outputs and regions are what the runtime takes."""
    import numpy as np

    with np.load(path) as made:
        for kind, given in (("input", inputs), ("output", outputs)):
            wanted = [
                ([1] * (_DIMENSIONS - len(t["shape"])) + t["shape"], np.dtype(t["dtype"]).itemsize, SCRATCH)
                for t in given
            ]
            columns = [made[f"{kind}_{what}"].tolist() for what in ("shape", "elem_size", "region")]
            found = list(zip(*columns, strict=True))
            if found != wanted:
                raise RuntimeError(f"Vela's {kind}s are {found}, those of the TFLite file {wanted}")
        regions = int(made["weight_region"]), int(made["scratch_region"])
        if regions != (WEIGHTS, SCRATCH):
            raise RuntimeError(f"weights and scratch memory are in regions {regions}")
        return int(made["scratch_fast_size"])


def _program(spec: Any, stream: bytes, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> bytes:
    """A program that does nothing but call the delegate."""
    import torch
    from executorch.backends.arm.ethosu import EthosUPartitioner
    from executorch.exir import to_edge  # type: ignore[import-not-found]
    from executorch.exir.lowered_backend_module import (  # type: ignore[import-not-found]
        LoweredBackendModule,
    )

    class Shapes(torch.nn.Module):
        """Has the network's inputs and outputs; what is between them is the delegate's."""

        def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(empty(t) for t in outputs)

    def empty(tensor: dict[str, Any]) -> torch.Tensor:
        return torch.zeros(tensor["shape"], dtype=getattr(torch, tensor["dtype"]))

    shapes = to_edge(torch.export.export(Shapes(), tuple(empty(t) for t in inputs))).exported_program()
    specs = EthosUPartitioner(spec).delegation_spec.compile_specs
    lowered = LoweredBackendModule(shapes, BACKEND, stream, specs)
    return bytes(lowered.buffer(extract_delegate_segments=True))


def _check(made: bytes, stream: bytes, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
    """Raises RuntimeError where the program, read again, is anything but one call of the delegate."""
    from executorch.exir._serialize._program import (  # type: ignore[import-not-found]
        deserialize_pte_binary,
    )

    program = deserialize_pte_binary(made).program
    (plan,) = program.execution_plan
    delegates = [delegate.id for delegate in plan.delegates]
    steps = [step.instr_args for chain in plan.chains for step in chain.instructions]
    called = [getattr(step, "args", None) for step in steps]
    if delegates != [BACKEND] or plan.operators or called != [[*plan.inputs, *plan.outputs]]:
        raise RuntimeError(f"the program has delegates {delegates}, operators {plan.operators}: {steps}")
    tensors = [plan.values[i].val for i in called[0]]
    found = [(t.sizes, t.dim_order) for t in tensors]
    wanted = [(t["shape"], list(range(len(t["shape"])))) for t in (*inputs, *outputs)]
    if found != wanted:
        raise RuntimeError(f"the program's inputs and outputs are {found}, the file's {wanted}")
    data = program.backend_delegate_data[plan.delegates[0].processed.index].data
    if bytes(data) != stream or made.find(stream) % _ALIGNMENT:
        raise RuntimeError("the delegate's bytes are not what was packed, or lie unaligned")
