"""A small job of three stages that goes through the real engine, and children to kill while they run it.

The "training" draws from all three global random generators, so that a resumed run differs if any of them
is not put back.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from archnet import atomic, checkpoint
from archnet.build import BuildDir
from archnet.config import Bits, ConvertSettings
from archnet.engine import Engine, StageContext
from archnet.events import Event, EventSink, ignore

STEPS = 5
SETTINGS = ConvertSettings("archnet", Bits(8, 8))
OUTPUT = "graph/result.safetensors"


def run_job(
    folder: Path,
    *,
    settings: ConvertSettings = SETTINGS,
    events: EventSink = ignore,
    after_step: Callable[[int], None] = lambda step: None,
    width: int = 3,
) -> str:
    """Run the job to its end; returns the SHA-256 of what it made."""
    with BuildDir.open_for_convert(folder, settings, "abc", data_sha256="def") as build:
        if not build.finished:
            with Engine(build, events, {"start": 1, "train": 10, "end": 1}) as engine:
                _stages(engine, after_step, width)
            build.finish({"format": "fake"})
        return atomic.sha256_file(folder / OUTPUT)


def _stages(engine: Engine, after_step: Callable[[int], None], width: int) -> None:
    start = engine.stage(
        "start", lambda context: {"x": torch.randn(width)}, _save, lambda place: _load(place)
    )
    trained = engine.stage("train", lambda context: _train(context, start, after_step), _save, _load)

    def write(context: StageContext) -> dict[str, torch.Tensor]:
        result = {"x": torch.round(trained["x"] * 1000).to(torch.int32)}
        with atomic.replacing(engine.build.path / OUTPUT) as temporary:
            checkpoint.save_tensors(temporary, result)
        return result

    engine.stage("end", write, _save, _load)


def _train(
    context: StageContext, start: dict[str, torch.Tensor], after_step: Callable[[int], None]
) -> dict[str, torch.Tensor]:
    x, momentum, first = start["x"].clone(), torch.zeros_like(start["x"]), 0
    restored = context.load_checkpoint()
    if restored is not None:
        tensors, state = restored
        x, momentum, first = tensors["x"], tensors["momentum"], state["step"]
    for step in range(first, STEPS):
        momentum = 0.9 * momentum + torch.randn_like(x) * random.random() + np.random.rand()
        x = x + 0.1 * momentum
        context.progress(step + 1, STEPS, block="block 0", loss=float(x.square().mean()), speed=100.0)
        after_step(step)
        if context.checkpoint_due() or step % 2 == 0:
            context.save_checkpoint({"x": x, "momentum": momentum}, {"step": step + 1})
    context.summary["steps"] = STEPS
    return {"x": x}


def _save(tensors: dict[str, torch.Tensor], folder: Path) -> None:
    checkpoint.save_tensors(folder / "x.safetensors", tensors)


def _load(folder: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_tensors(folder / "x.safetensors")


@dataclass
class Child:
    """A forked process: real, to be killed, and without the seconds that importing torch takes."""

    pid: int

    @classmethod
    def start(cls, work: Callable[[], object]) -> Child:
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                torch.set_num_threads(1)  # OpenMP's threads do not live on in a fork
                work()
                code = 0
            except KeyboardInterrupt:
                code = 130
            except Exception as error:
                print(error, file=sys.stderr, flush=True)
                code = 2
            finally:
                os._exit(code)
        return cls(pid)

    def wait(self) -> int:
        """The exit code, or minus the signal that killed it."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class Recorder:
    """A sink that keeps all events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)


if __name__ == "__main__":
    print(run_job(Path(sys.argv[1])))
