"""Children with a time limit: whatever they start ends with them, and their words are kept in a log."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from numpy.typing import NDArray

from side_by_side.child import read_arrays, write_arrays

BENCHMARKS = Path(__file__).resolve().parents[1]
ENDING_SECONDS = 10


class ChildFailed(Exception):
    """A child that failed, ended or took too long; the message says which."""


class Child:
    """A tool's process. Use it in a `with`: it ends there, with everything that it started."""

    def __init__(
        self, python: Path, arguments: list[str], *, threads: int, seconds: float, log: Path
    ) -> None:
        """Start `python -m side_by_side.child ARGUMENTS`.

        Args:
            threads: what its libraries may use.
            seconds: after which it is killed.
            log: appended to.
        """
        self._seconds = seconds
        self._late = False
        self._log = log.open("ab")
        count = str(threads)
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), os.environ.get("PYTHONPATH", "")]).rstrip(
                os.pathsep
            ),
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "OPENBLAS_NUM_THREADS": count,
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONWARNINGS": "ignore",
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [str(python), "-m", "side_by_side.child", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            start_new_session=True,
        )
        self._timer = threading.Timer(seconds, self._kill_late)
        self._timer.daemon = True
        self._timer.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue

    def expect_ready(self) -> None:
        """Wait until the network is open.

        Raises:
            ChildFailed: it cannot be opened, or not in time.
        """
        answer, _ = self.answer()
        if "failed" in answer:
            raise ChildFailed(answer["failed"])

    def run_of(self, graph: str) -> Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]:
        """What runs one of the network's graphs, inputs by name to outputs by name; raises ChildFailed."""

        def run(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
            answer, outputs = self.answer({"graph": graph}, dict(inputs))
            if "failed" in answer:
                raise ChildFailed(answer["failed"])
            return outputs

        return run

    def milliseconds(self, graph: str, inputs: Mapping[str, NDArray[Any]]) -> float:
        """Time of one pass in the steady state.

        Raises:
            ChildFailed: it failed, ended, or took too long.
        """
        answer, _ = self.answer({"graph": graph, "timed": True}, dict(inputs))
        if "failed" in answer:
            raise ChildFailed(answer["failed"])
        return float(answer["ms"])

    def answer(
        self, record: dict[str, Any] | None = None, arrays: dict[str, NDArray[Any]] | None = None
    ) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Send a request (none: only listen) and read the answer.

        Raises:
            ChildFailed: it ended or took too long.
        """
        try:
            if record is not None:
                write_arrays(_stream(self._process.stdin), record, arrays or {})
            found = read_arrays(_stream(self._process.stdout))
        except (OSError, ValueError) as error:
            raise ChildFailed(self._why()) from error
        if found is None:
            raise ChildFailed(self._why())
        return found

    def _why(self) -> str:
        """Why its pipes are closed: it is about to end by itself, or was killed."""
        try:
            code = self._process.wait(timeout=ENDING_SECONDS)
        except subprocess.TimeoutExpired:
            self._kill()
            code = self._process.wait()
        if self._late:
            return f"stopped after its time limit of {self._seconds:g} s"
        if code == -signal.SIGKILL:
            return "its process was killed: too little memory?"
        return f"its process ended with {code if code >= 0 else signal.Signals(-code).name}"

    def _kill_late(self) -> None:
        self._late = True
        self._kill()

    def _kill(self) -> None:
        """End the child's session: itself and what it started."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def _stream(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None
    return stream
