"""Runs a job stage by stage, so that nothing is lost when it is killed.

A finished stage lies as a sealed folder under DIR/checkpoints/<stage>/result and is loaded, not computed
again; a long stage leaves checkpoints beside it. The result of a stage is always what `load` reads back,
so that a job that was killed and one that was not see the same values.

    with BuildDir.open_for_convert(out, settings, sha256) as build, Engine(build, events, STAGES) as engine:
        plan = engine.stage("plan", compute=lambda context: make_plan(graph), save=save_plan, load=load_plan)
"""

from __future__ import annotations

import hashlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from archnet import atomic, checkpoint
from archnet.build import BuildDir
from archnet.events import EventSink, JsonLog, Note, Progress, StageFinished, StageStarted, ignore

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

CHECKPOINT_SECONDS = 20.0
"""How much work a kill may cost; saving takes at most about a twentieth of the time."""

_CHAIN_START = "start"


class Interrupted(KeyboardInterrupt):
    """The user asked to stop; the folder can be gone on with by the same command."""


def memory_bytes() -> tuple[int, int]:
    """Resident memory of this process now, and the most so far."""
    fields = {}
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("VmRSS", "VmHWM"):
                fields[name] = int(value.split()[0]) * 1024
    return fields.get("VmRSS", 0), fields.get("VmHWM", 0)


class StageContext:
    """What a stage's `compute` gets: progress, checkpoints, a seed.

    Attributes:
        name: the stage's name.
        seed: of this stage; the global generators were seeded with it.
        summary: figures for the log and the display, filled by `compute`.
    """

    def __init__(self, engine: Engine, name: str, folder: Path, seed: int) -> None:
        self.name = name
        self.seed = seed
        self.summary: dict[str, str | int | float | None] = {}
        self._engine = engine
        self._folder = folder
        self._begun = self._saved = time.monotonic()
        self._earlier_seconds = 0.0
        self._interval = CHECKPOINT_SECONDS
        self._steps: deque[tuple[float, int]] = deque(maxlen=64)

    @property
    def checkpoint_dir(self) -> Path:
        """The stage's folder for what it keeps while it works; it is made on the first call."""
        with atomic.disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder

    @property
    def seconds(self) -> float:
        """How long this stage has worked, earlier runs up to their last checkpoint included."""
        return self._earlier_seconds + time.monotonic() - self._begun

    def progress(
        self,
        step: int,
        steps: int,
        *,
        block: str = "",
        loss: float | None = None,
        speed: float | None = None,
        unit: str = "tokens",
        detail: str = "",
    ) -> None:
        """Tell that `step` of `steps` is done (see `archnet.events.Progress`)."""
        left = self._seconds_left(step, steps)
        now, peak = memory_bytes()
        self._engine.send(
            Progress(
                self.name,
                block,
                step,
                steps,
                loss,
                speed,
                unit,
                left,
                now,
                detail,
                total_seconds_left=self._engine.total_left(self.name, self.seconds, left),
                peak_bytes=peak,
            )
        )

    def _seconds_left(self, step: int, steps: int) -> float | None:
        self._steps.append((time.monotonic(), step))
        (then, first), (now, last) = self._steps[0], self._steps[-1]
        if steps <= 0 or last <= first:
            return None
        return max(0.0, (steps - last) * (now - then) / (last - first))

    def checkpoint_due(self) -> bool:
        """Whether to call `save_checkpoint` now. Ask after every step.

        True when the last one is old enough, or when the user asked to stop. A stage that asks is
        stopped at its next step; one that never does is stopped at once.
        """
        self._engine.stepwise = True
        return self._engine.stop_requested or time.monotonic() - self._saved >= self._interval

    def save_checkpoint(self, tensors: Mapping[str, torch.Tensor], state: Mapping[str, object]) -> None:
        """Keep the stage's state; the checkpoint before is deleted when this one is whole.

        The global random generators are kept too.

        Args:
            tensors: written bit by bit.
            state: counters and the like, as JSON holds them; `checkpoint.pack` splits what has both.

        Raises:
            ArchNetError: the disk is full; the checkpoint before is still there.
            Interrupted: the user had asked to stop, and now all is safe.
        """
        begun = time.monotonic()
        earlier = self._numbers()
        target = self._folder / f"step-{(earlier[-1] + 1) if earlier else 1:06d}"
        random_tensors, random_state = checkpoint.random_state()
        content = {**tensors, **random_tensors}

        def fill(folder: Path) -> None:
            checkpoint.save_tensors(folder / "state.safetensors", content)
            atomic.write_json(folder / "state.json", {"state": dict(state), "random": random_state})

        record = {"stage": self.name, "after": self._engine.chain, "seconds": self.seconds}
        size = sum(tensor.nbytes for tensor in content.values())
        checkpoint.write_sealed(target, fill, record, needed=size)
        for number in earlier:
            atomic.remove_tree(self._folder / f"step-{number:06d}")
        self._saved = time.monotonic()
        self._interval = max(CHECKPOINT_SECONDS, 20 * (self._saved - begun))
        if self._engine.stop_requested:
            raise Interrupted(f"stopped at a checkpoint of stage {self.name}")

    def load_checkpoint(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
        """What the last `save_checkpoint` of an earlier run kept, or None.

        The global random generators are put back too. Checkpoints that are damaged, or were made from other
        results of the stages before, are deleted.
        """
        for number in reversed(self._numbers()):
            folder = self._folder / f"step-{number:06d}"
            seal = checkpoint.read_seal(folder)
            if seal is None or seal.get("after") != self._engine.chain:
                self._engine.note(f"checkpoint {number} of stage {self.name} is damaged and was left out")
                atomic.remove_tree(folder)
                continue
            tensors = checkpoint.load_tensors(folder / "state.safetensors")
            content = atomic.read_json(folder / "state.json")
            state, random_state = content["state"], content["random"]
            assert isinstance(state, dict)
            assert isinstance(random_state, dict)
            checkpoint.restore_random_state(tensors, random_state)
            self._earlier_seconds = float(seal["seconds"])
            self._begun = time.monotonic()
            return {k: t for k, t in tensors.items() if not k.startswith("random/")}, state
        return None

    def _numbers(self) -> list[int]:
        names = [path.name for path in self._folder.glob("step-*")]
        return sorted(int(name[5:]) for name in names if name[5:].isdigit())


class Engine:
    """Runs the stages of one job in a locked build folder; use it as a context manager.

    SIGINT and SIGTERM stop it at the next safe moment with `Interrupted`; the second one at once.

    Args:
        build: the folder, opened with `BuildDir.open_for_convert`.
        events: told of everything; DIR/log.jsonl is written in any case.
        stages: all names in order, or names with the seconds that each is expected to take (any unit).
        earlier: names of stages that came before this engine, for the counting only.
    """

    def __init__(
        self,
        build: BuildDir,
        events: EventSink = ignore,
        stages: Sequence[str] | Mapping[str, float] = (),
        earlier: Sequence[str] = (),
    ) -> None:
        self.build = build
        self._earlier = tuple(earlier)
        self.stop_requested = False
        self.stepwise = False
        self._events = events
        self._expected = dict(stages) if isinstance(stages, Mapping) else dict.fromkeys(stages, 0.0)
        self._finished: dict[str, float] = {}
        self.chain = _CHAIN_START
        self._log = JsonLog(build.log)
        self._old_handlers: dict[signal.Signals, Any] = {}

    def send(self, event: Note | Progress | StageStarted | StageFinished) -> None:
        """Write an event to the log and hand it to the sink."""
        self._log(event)
        self._events(event)

    def note(self, text: str) -> None:
        """Tell the user a sentence."""
        self.send(Note(text))

    def stage(
        self,
        name: str,
        compute: Callable[[StageContext], T],
        save: Callable[[T, Path], None],
        load: Callable[[Path], T],
    ) -> T:
        """Give a stage's result: computed and saved, or loaded when an earlier run had finished it.

        A result is used again only if the stages before it gave the same bytes as when it was made.

        Args:
            name: of the stage, unique in the job; also its folder's.
            compute: makes the result.
            save: writes it into an empty folder.
            load: reads it from there; what it returns is this method's result.

        Raises:
            ArchNetError: from `compute`, or the disk is full.
            Interrupted: the user asked to stop.
        """
        folder = self.build.checkpoints_dir / name
        result = folder / "result"
        index = len(self._finished)
        seal = checkpoint.read_seal(result)
        if seal is not None and seal.get("after") == self.chain:
            self.send(self._started(name, index, resumed=True))
            self._end(name, seal, loaded=True)
            return load(result)
        if seal is None and result.exists():
            self.note(f"the result of stage {name} is damaged and is made again")
        if seal is not None:
            atomic.remove_tree(folder)  # made from other results than there are now: so are its checkpoints
        self._compute(name, index, folder, compute, save)
        seal = checkpoint.read_seal(result)
        if seal is None:
            raise RuntimeError(f"{result} changed while it was written")
        self._end(name, seal, loaded=False)
        return load(result)

    def _started(self, name: str, index: int, *, resumed: bool) -> StageStarted:
        names = (*self._earlier, *self._expected)
        index += len(self._earlier)
        return StageStarted(name, index, max(len(names), index + 1), resumed, names)

    def _compute(
        self,
        name: str,
        index: int,
        folder: Path,
        compute: Callable[[StageContext], T],
        save: Callable[[T, Path], None],
    ) -> None:
        work = folder / "work"
        self.send(self._started(name, index, resumed=work.exists()))
        seed = self._seed(name)
        checkpoint.seed_everything(seed)
        context = StageContext(self, name, work, seed)
        self._stop_if_requested()
        self.stepwise = False
        with atomic.full_disk_errors(self.build.path):
            value = compute(context)
            self.stepwise = False
            checkpoint.write_sealed(
                folder / "result",
                lambda place: save(value, place),
                {
                    "stage": name,
                    "after": self.chain,
                    "seconds": context.seconds,
                    "summary": context.summary,
                },
            )
        atomic.remove_tree(work)
        self._stop_if_requested()

    def _end(self, name: str, seal: Mapping[str, Any], *, loaded: bool) -> None:
        content = sorted((path, entry["sha256"]) for path, entry in seal["files"].items())
        self.chain = hashlib.sha256(repr((self.chain, name, content)).encode()).hexdigest()
        self._finished[name] = float(seal["seconds"])
        self.send(StageFinished(name, float(seal["seconds"]), dict(seal["summary"]), loaded=loaded))

    def _seed(self, name: str) -> int:
        """One seed a stage, so that skipping those that are done changes nothing in the others."""
        digest = hashlib.sha256(f"{self.build.settings.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:4], "little")

    def total_left(self, stage: str, spent: float, left: float | None) -> float | None:
        """Seconds left in all: this stage's, and the later ones' at the pace seen so far; None if unknown."""
        if left is None or not self._expected.get(stage):
            return None
        later = sum(v for k, v in self._expected.items() if k not in self._finished and k != stage)
        return left + later * (spent + left) / self._expected[stage]

    def _stop_if_requested(self) -> None:
        if self.stop_requested:
            raise Interrupted("stopped between two stages")

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_requested or not self.stepwise:
            self.stop_requested = True
            raise Interrupted("stopped at once; the work since the last checkpoint is done again")
        self.stop_requested = True
        self.note("stopping after this step (once more: at once)")

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._old_handlers[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        self._log.close()
