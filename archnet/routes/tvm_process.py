"""Compiles a network with TVM in a process of its own, so that a crash of LLVM is one error.

    python -m archnet.routes.tvm_process GRAPH OUT PROCESSOR [SEQUENCE]

PROCESSOR is one of `archnet.export.tvm_target`, or "c" for C source. OUT/said.json gets what the summary
needs.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

from archnet.atomic import read_json, write_json
from archnet.errors import ArchNetError
from archnet.storage import load_graph

SAID = "said.json"
C_SOURCE = "c"


def main() -> int:
    """The exit code: 2 with one line for what the user can mend."""
    folder, out, target, *sequence = sys.argv[1:]
    graph, place = load_graph(Path(folder)), Path(out)
    try:
        if target == C_SOURCE:
            from archnet.export.tvm_c import write_c

            program = write_c(graph, place, int(sequence[0]) if sequence else None)
            write_json(place / SAID, dataclasses.asdict(program))
        else:
            from archnet.export.tvm import META, compile_tvm

            compile_tvm(graph, place, target=target)
            write_json(place / SAID, dict(read_json(place / META)))
    except ArchNetError as error:
        sys.stderr.write(f"{error.problem}; fix: {error.fix}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
