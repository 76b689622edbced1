"""Cycles on Arm Ethos-U: networks of Arch-Net beside the original as the best other route compiles it.

    python benchmarks/ethos_cycles.py --model all-MiniLM-L6-v2 --data sentences.txt \
        --build W8A8=build-w8a8 --build W4A8=build-w4a8 --out ethos.json

The original is quantized to int8 TFLite by litert-torch and ai-edge-quantizer (ethos_rival.py), in an
environment of its own under the cache folder. All files have the same borders and go through the same Vela
with its default system of each chip; cycles are Vela's estimates. Builds are only read.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from side_by_side.environments import interpreter, versions

from archnet.compiling import write_tflite
from archnet.errors import ArchNetError
from archnet.targets.chips import CompileSummary
from archnet.targets.process import run_tool
from archnet.targets.vela import compile_vela

ENVIRONMENT = "litert-torch"
PACKAGES = ("litert-torch", "ai-edge-quantizer", "torch", "transformers")
CHIPS = ("ethos-u55-256", "ethos-u65-256", "ethos-u85-256")
SECONDS = 3600.0
ORIGINAL = "original, int8"


def original(model: str, data: Path, length: int, cache: Path) -> tuple[Path, dict[str, str]]:
    """The original's TFLite file at a sequence length, and the versions that made it."""
    python = interpreter(ENVIRONMENT, cache)
    path = cache / f"ethos-{Path(model).name}-{length}.tflite"
    if not path.exists():
        script = Path(__file__).with_name("ethos_rival.py")
        run_tool(
            [str(python), *map(str, (script, Path(model).resolve(), data.resolve(), length, path))],
            log=path.with_suffix(".log"), seconds=SECONDS, title="litert-torch", fix="look into the log",
        )  # fmt: skip
    return path, versions(python, PACKAGES)


def compiled(model: Path, chip: str) -> CompileSummary:
    """What Vela says of a TFLite file."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        copy = folder / "model.tflite"
        copy.write_bytes(model.read_bytes())
        return compile_vela(copy, folder, chip, log=folder / "log", seconds=SECONDS)


def rows_of(files: dict[str, Path], length: int, chips: tuple[str, ...]) -> list[dict[str, object]]:
    """One row a chip and file, with cycles as a share of the original's."""
    rows: list[dict[str, object]] = []
    for chip in chips:
        against: int | None = None
        for name, path in files.items():
            summary = replace(compiled(path, chip), sequence=length)
            cycles = summary.cycles
            against = cycles if name == ORIGINAL else against
            share = None if cycles is None or not against else cycles / against
            rows.append({"network": name, "share": share, **asdict(summary)})
            print(line(rows[-1]), flush=True)
    return rows


def line(row: dict[str, object]) -> str:
    """A row of the table in docs/chips.md."""
    cycles, sram, share = row["cycles"], row["sram_bytes"], row["share"]
    assert isinstance(cycles, int)
    assert isinstance(sram, int)
    assert isinstance(share, float)
    return (
        f"| {row['target']} | {row['sequence']} | {row['network']} | {row['native_operators']} / "
        f"{row['fallback_operators']} | {cycles / 1e6:.2f} M | {sram / 1024:.0f} KiB | {share:.0%} |"
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", required=True, help="folder of a BERT encoder")
    parser.add_argument("--data", type=Path, required=True, help="sentences, one a line, for calibration")
    parser.add_argument("--build", action="append", default=[], metavar="NAME=DIR", help="of Arch-Net")
    parser.add_argument("--seq-len", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--chips", nargs="+", default=list(CHIPS))
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "archnet" / "benchmarks")
    parser.add_argument("--out", type=Path, required=True, help="JSON")
    options = parser.parse_args()
    builds = dict(text.split("=", 1) for text in options.build)
    rows: list[dict[str, object]] = []
    used: dict[str, str] = {}
    print("| chip | tokens | network | operators on NPU / CPU | cycles | SRAM | of the original |")
    print("|---|---|---|---|---|---|---|")
    try:
        for length in options.seq_len:
            path, used = original(options.model, options.data, length, options.cache)
            with tempfile.TemporaryDirectory() as place:
                files = {ORIGINAL: path}
                for name, build in builds.items():
                    files[name] = Path(place) / f"{name}.tflite"
                    write_tflite(Path(build), files[name], length)
                rows += rows_of(files, length, tuple(options.chips))
    except ArchNetError as error:
        sys.exit(f"{error.problem}\n{error.fix}")
    options.out.write_text(json.dumps({"versions": used, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
