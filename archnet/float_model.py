"""The float original as the build folder carries it: onnx/float.onnx in ONNX Runtime, float32."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from archnet.errors import ArchNetError


class FloatModel:
    """Runs the float original on the user's inputs."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session = session
        self._inputs = [value.name for value in session.get_inputs()]
        self._outputs = [value.name for value in session.get_outputs()]

    @classmethod
    def open(cls, build_dir: Path, *, threads: int | None = None) -> Self:
        """Load DIR/onnx/float.onnx.

        Args:
            build_dir: a finished build folder.
            threads: of one operator; all cores when None.

        Raises:
            ArchNetError: the file is missing or damaged.
        """
        file = build_dir / "onnx" / "float.onnx"
        if not file.is_file():
            raise ArchNetError(
                f"{file} is missing, so there is no float original to compare with",
                fix="convert again into a new folder",
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exception types share only this base
            reason = str(error).strip().splitlines()[0]
            raise ArchNetError(
                f"{file} cannot be loaded: {reason}", fix="convert again into a new folder"
            ) from error
        return cls(session)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float32]]:
        """All outputs by name; inputs that the original does not take are left out.

        Raises:
            ArchNetError: an input is missing.
        """
        missing = [name for name in self._inputs if name not in inputs]
        if missing:
            raise ArchNetError(
                f"the float original needs the input {', '.join(missing)}", fix="add it to the inputs"
            )
        values = self._session.run(self._outputs, {name: inputs[name] for name in self._inputs})
        return dict(zip(self._outputs, values, strict=True))
