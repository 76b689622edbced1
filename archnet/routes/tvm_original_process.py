"""Compiles a float ONNX file with TVM in a process of its own, so that a crash of LLVM is one error.

    python -m archnet.routes.tvm_original_process MODEL OUT PROCESSOR

PROCESSOR is one of `archnet.export.tvm_target`. OUT gets model.so, and said.json what the summary needs.
TVM does what its manual (0.27, "End-to-End Optimize Model") does before any tuning: the import from ONNX,
operators as loops, loops joined, LLVM.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

from archnet.atomic import replacing, write_json
from archnet.errors import ArchNetError
from archnet.export.tvm import LIBRARY, import_tvm
from archnet.export.tvm_target import find_processor, linker
from archnet.routes.static_onnx import counted
from archnet.routes.tvm_process import SAID

ENTRY = "main"


def main() -> int:
    """The exit code: 2 with one line for what the user can mend."""
    model, out, processor = sys.argv[1:]
    try:
        write_json(Path(out) / SAID, _compile(Path(model), Path(out), processor))
    except ArchNetError as error:
        sys.stderr.write(f"{error.problem}; fix: {error.fix}\n")
        return 2
    return 0


def _compile(path: Path, folder: Path, name: str) -> Mapping[str, Any]:
    version = import_tvm()
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    processor = find_processor(name)
    link = linker(processor.architecture)
    module = from_onnx(onnx.load(str(path)), keep_params_in_input=False)
    floats = counted(_float_operators(module))
    target = tvm.target.Target(processor.tvm_target())
    with target:
        module = relax.get_pipeline("zero")(module)
    executable = tvm.compile(module, target=target)
    with replacing(folder / LIBRARY) as unfinished:

        def link_files(library: str, objects: list[str], **_options: Any) -> None:
            link(library, objects)

        executable.export_library(str(unfinished), fcompile=link_files)
    kernels = sum(call.op == tvm.ir.Op.get("relax.call_tir") for call in _calls(module))
    return {
        "tvm": version,
        "triple": processor.triple,
        "cpu": processor.cpu,
        "kernels": kernels,
        "floats": floats,
    }


def _calls(module: Any) -> Iterator[Any]:
    """What the network's function calls, in order."""
    from tvm import relax

    for block in module[ENTRY].body.blocks:
        for binding in block.bindings:
            if isinstance(binding.value, relax.Call):
                yield binding.value


_MOVES = frozenset(
    ("reshape", "permute_dims", "strided_slice", "take", "gather_nd", "astype", "broadcast_to", "concat")
)
"""What computes nothing."""


def _float_operators(module: Any) -> Iterator[str]:
    """The kinds of operators whose result is float."""
    from tvm import ir

    for call in _calls(module):
        kind = call.op.name.rpartition(".")[2] if isinstance(call.op, ir.Op) else ""
        if kind == "call_tir":  # what the import writes as loops at once
            kind = call.args[0].name_hint
        if kind and kind not in _MOVES and str(getattr(call.ty, "dtype", "")).startswith("float"):
            yield kind


if __name__ == "__main__":
    sys.exit(main())
