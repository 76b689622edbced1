"""Latency of a build's integer network beside what a user would run instead, on this machine.

    pip install 'archnet[benchmarks]'
    python benchmarks/latency.py BUILD_DIR [--json FILE]

Each runtime lives in a process of its own (benchmarks/peers.py) and they take turns, so that whatever else
the machine does falls on all of them. Figures are medians; a ratio is the median over the rounds of
(float32 original in ONNX Runtime) / (this one). A peer that is not installed is shown as missing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from peers import PEERS

LEAST_ROUNDS, MOST_ROUNDS = 7, 61
SETTLE_SECONDS = 0.02
"""Pause between two runtimes: the threads of the one before stop spinning."""


@dataclass
class Peer:
    """One runtime in its child process, and what it answered."""

    name: str
    process: subprocess.Popen[str]
    versions: dict[str, str] = field(default_factory=dict)
    missing: str | None = None

    def ask(self, request: dict[str, int] | None = None) -> dict[str, object]:
        """Send a request (none: only wait) and read the answer; an ended process is a missing peer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            if request is not None:
                self.process.stdin.write(json.dumps(request) + "\n")
                self.process.stdin.flush()
            line = self.process.stdout.readline()
        except OSError:
            line = ""
        if not line:
            return {"missing": f"its process ended with {self.process.wait()}"}
        answer: dict[str, object] = json.loads(line)
        return answer


@dataclass(frozen=True)
class Row:
    """The result of one peer at one shape."""

    peer: str
    batch: int
    sequence: int
    rounds: int
    median_ms: float
    least_ms: float
    ratio: float


def start(name: str, build: Path, work: Path, threads: int) -> Peer:
    """Start a peer and wait until it is ready; quantizing the original can take minutes."""
    script = Path(__file__).with_name("peers.py")
    command = [sys.executable, str(script), name, str(build), str(work), str(threads)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    peer = Peer(name, process)
    answer = peer.ask()
    peer.missing = str(answer["missing"]) if "missing" in answer else None
    versions = answer.get("ready")
    peer.versions = versions if isinstance(versions, dict) else {}
    return peer


def measure(peers: list[Peer], batch: int, sequence: int, seconds: float) -> list[Row]:
    """Rounds in which every peer runs once, for about `seconds`."""
    times: dict[str, list[float]] = {peer.name: [] for peer in peers}
    began = time.perf_counter()
    rounds = 0
    while rounds < LEAST_ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - began < seconds):
        for peer in peers:
            if peer.missing is not None:
                continue
            answer = peer.ask({"batch": batch, "sequence": sequence})
            if "missing" in answer:
                peer.missing = str(answer["missing"])
                continue
            ms = answer["ms"]
            assert isinstance(ms, float)
            times[peer.name].append(ms)
            time.sleep(SETTLE_SECONDS)
        rounds += 1
    base = times[next(iter(PEERS))]
    return [
        Row(
            peer=peer.name,
            batch=batch,
            sequence=sequence,
            rounds=len(times[peer.name]),
            median_ms=statistics.median(times[peer.name]),
            least_ms=min(times[peer.name]),
            ratio=statistics.median(a / b for a, b in zip(base, times[peer.name], strict=True)),
        )
        for peer in peers
        if peer.missing is None
    ]


def table(rows: list[Row], peers: list[Peer]) -> str:
    """One line a peer: median milliseconds and the ratio to the float32 original, for each shape."""
    shapes = list(dict.fromkeys((row.batch, row.sequence) for row in rows))
    heads = [f"{batch} × {sequence}" for batch, sequence in shapes]
    lines = [f"{'batch × tokens: ms (ratio)':38}" + "".join(f"{head:>20}" for head in heads)]
    for peer in peers:
        if peer.missing is not None:
            lines.append(f"{peer.name:38}   missing: {peer.missing}")
            continue
        found = {(r.batch, r.sequence): r for r in rows if r.peer == peer.name}
        cells = [f"{found[s].median_ms:.2f} ({found[s].ratio:.2f})" if s in found else "-" for s in shapes]
        lines.append(f"{peer.name:38}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "build", type=Path, help="a build folder, or one with onnx/float.onnx and onnx/model.onnx"
    )
    parser.add_argument("--shapes", default="1x32,1x128,32x32,32x128", help="batch x tokens, ...")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="about this long for each shape, or 7 rounds"
    )
    parser.add_argument("--work", type=Path, help="keep the quantized originals here for the next time")
    parser.add_argument(
        "--only", help="comma-separated parts of names of peers, besides the float32 original"
    )
    arguments = parser.parse_args()
    for file in ("float.onnx", "model.onnx"):
        if not (arguments.build / "onnx" / file).is_file():
            parser.exit(2, f"{arguments.build / 'onnx' / file} is missing: give a finished build folder\n")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    base = next(iter(PEERS))
    shapes = [tuple(map(int, shape.split("x"))) for shape in arguments.shapes.split(",")]
    parts = arguments.only.lower().split(",") if arguments.only else [""]
    names = [n for n in PEERS if n == base or any(part in n.lower() for part in parts)]
    peers: list[Peer] = []
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        try:
            for name in names:
                peers.append(start(name, arguments.build, work, arguments.threads))
                print(f"{name}: {peers[-1].missing or 'ready'}", file=sys.stderr)
            if peers[0].missing is not None:
                raise SystemExit(f"{base} cannot run: {peers[0].missing}")
            for batch, sequence in shapes:
                rows += measure(peers, batch, sequence, arguments.seconds)
        finally:
            for peer in peers:
                peer.process.kill()
                peer.process.wait()
    print(table(rows, peers))
    if arguments.json:
        record = {
            "threads": arguments.threads,
            "rows": [asdict(row) for row in rows],
            "versions": {peer.name: peer.versions for peer in peers if peer.missing is None},
            "missing": {peer.name: peer.missing for peer in peers if peer.missing is not None},
        }
        arguments.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
