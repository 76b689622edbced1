"""`archnet export` and `archnet run`: the files that a build gives, and one pass through them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archnet.atomic import human_bytes, replacing, write_bytes
from archnet.calibration.image_settings import SETTINGS_FILE
from archnet.cli.app import app, examples, quiet_libraries
from archnet.cli.check import folder_argument
from archnet.errors import ArchNetError, nearest
from archnet.parts import is_image, is_language, is_translation

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("onnx", "tvm", "tflite")
LINEAR_FORMS = ("convolution", "gemm")


seq_len_option = click.option(
    "--seq-len",
    type=int,
    metavar="N",
    help="Tokens of a sentence, where sizes are fixed (tflite, chips).  [default: the network's most]",
)


@app.command(
    short_help="Write the network for a runtime.",
    epilog=examples(
        "archnet export build --format onnx",
        "archnet export build --format onnx --out model.onnx",
        "archnet export build --format onnx --linear gemm --out openvino.onnx",
        "archnet export build --format tvm --target-arch aarch64",
        "archnet export build --format tflite --seq-len 64",
    ),
)
@folder_argument
@click.option("--format", "form", required=True, metavar="|".join(FORMATS), help="What to write.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A file (onnx, tflite) or a folder (tvm).  [default: DIR/onnx/model.onnx, DIR/tflite/model.tflite,"
    " DIR/tvm/ARCH]",
)
@click.option(
    "--target-arch", metavar="ARCH", help="Processor for tvm: x86_64 or aarch64.  [default: this one]"
)
@click.option(
    "--linear",
    metavar="|".join(LINEAR_FORMS),
    help="Fully connected layers in onnx as 1x1 convolutions (fastest in ONNX Runtime) or as Gemm (fastest in"
    " OpenVINO); the integers are the same.  [default: convolution]",
)
@seq_len_option
def export(
    folder: Path,
    form: str,
    out: Path | None,
    target_arch: str | None,
    linear: str | None,
    seq_len: int | None,
) -> None:
    """Write the integer network in DIR for a runtime.

    Of a translation model, the encoder and the decoder's step are written, each into its own folder.
    """
    if form not in FORMATS:
        raise ArchNetError(
            f"--format {form!r} does not exist", fix=f"choose another; {nearest(form, FORMATS)}"
        )
    if form != "tvm" and target_arch is not None:
        raise ArchNetError("--target-arch is of --format tvm only", fix="leave it out")
    if form != "onnx" and linear is not None:
        raise ArchNetError("--linear is of --format onnx only", fix="leave it out")
    if form != "tflite" and seq_len is not None:
        raise ArchNetError("--seq-len is of --format tflite only", fix="leave it out")
    if linear not in (None, *LINEAR_FORMS):
        raise ArchNetError(
            f"--linear {linear!r} does not exist", fix=f"choose another; {nearest(linear, LINEAR_FORMS)}"
        )
    quiet_libraries()
    from archnet.build import BuildDir
    from archnet.parts import part_names
    from archnet.storage import load_graph

    build = BuildDir.open_finished(folder)
    names = part_names(build.path)
    if out is not None and len(names) > 1:
        raise ArchNetError(
            f"{folder} holds {len(names)} networks ({', '.join(names)}), which one --out cannot name",
            fix="leave --out out: each is written into its own folder there",
        )
    for name in names:
        place = build.path / name
        graph = load_graph(place / "graph")
        if form == "onnx":
            from archnet.export.onnx import export_onnx

            path = out or place / "onnx" / "model.onnx"
            export_onnx(graph, path, linear="gemm" if linear == "gemm" else "convolution")
        elif form == "tflite":
            from archnet.compiling import write_tflite

            path = out or place / "tflite" / "model.tflite"
            write_tflite(place, path, seq_len)
        else:
            from archnet.export.tvm import compile_tvm, folder_name

            target = target_arch or "host"
            path = compile_tvm(graph, out or place / "tvm" / folder_name(target), target=target)
        click.echo(f"{path} ({human_bytes(path.stat().st_size)})")


@app.command(
    short_help="Run the network once, .npz to .npz; or translate a text, or go on with it.",
    epilog=examples(
        "archnet run build --inputs in.npz --outputs out.npz --backend onnxruntime",
        "archnet run translator --inputs lines.en --outputs lines.de --beams 4",
        "archnet run writer --inputs beginnings.txt --outputs texts.txt --max-length 64",
        "archnet run classifier --inputs pictures/ --outputs classes.tsv",
        'python -c "import numpy as n; ids = n.array([[101, 7592, 102]]); \\',
        "  n.savez('in.npz', input_ids=ids, attention_mask=n.ones_like(ids))\"",
    ),
)
@folder_argument
@click.option(
    "--inputs",
    required=True,
    type=click.Path(path_type=Path),
    metavar="X.npz",
    help="Named arrays; for a model that writes a text, a source a line; for a classifier also pictures.",
)
@click.option(
    "--outputs", required=True, type=click.Path(path_type=Path), metavar="Y.npz", help="Where to write."
)
@click.option(
    "--beams", type=int, metavar="N", help="Of what is written; 1 is greedy.  [default: the model's own]"
)
@click.option(
    "--max-length", type=int, metavar="N", help="Most tokens that are written, of a text with its beginning."
)
@click.option(
    "--backend", default="reference", show_default=True, metavar="NAME", help="What runs the network."
)
def run(
    folder: Path, inputs: Path, outputs: Path, beams: int | None, max_length: int | None, backend: str
) -> None:
    """Run the network in DIR once: arrays of X.npz in, float32 arrays of Y.npz out.

    A translation model reads a text and writes one, a translation a line; a language model goes on with each
    line. An image classifier may read a picture or a folder of them, too, and then writes a class a line:
    file, class, probability.
    """
    if is_translation(folder) or is_language(folder):
        _write(folder, inputs, outputs, beams, max_length, backend)
        return
    for option, given in (("--beams", beams), ("--max-length", max_length)):
        if given is not None:
            raise ArchNetError(f"{option} is of models that translate or write only", fix="leave it out")
    if (folder / SETTINGS_FILE).is_file() and inputs.suffix.lower() != ".npz":
        _classify(folder, inputs, outputs, backend)
        return
    arrays = read_arrays(inputs)
    quiet_libraries()
    from archnet.backends import open_backend
    from archnet.build import BuildDir
    from archnet.calibration.array_files import LABELS

    if is_image(folder):
        arrays.pop(LABELS, None)  # for scores, in the same file
    results = open_backend(backend, BuildDir.open_finished(folder).path).run(arrays)
    write_arrays(outputs, results)
    for name, value in results.items():
        click.echo(f"{name} {'x'.join(map(str, value.shape))} {value.dtype}")


def _classify(folder: Path, inputs: Path, outputs: Path, backend: str) -> None:
    """Write the likeliest class of a picture, or of every picture in a folder, with its probability."""
    from archnet.calibration.image_files import picture_files

    files = picture_files(inputs)
    quiet_libraries()
    import archnet

    found = archnet.load(folder, backend=backend).classify(files)
    lines = [f"{file}\t{one.label}\t{one.share:.4f}\n" for file, one in zip(files, found, strict=True)]
    write_bytes(outputs, "".join(lines).encode())
    click.echo(f"{outputs}: {len(found)} pictures")


def _write(
    folder: Path, inputs: Path, outputs: Path, beams: int | None, max_length: int | None, backend: str
) -> None:
    """Translate a text file line by line, or go on with each line."""
    from archnet.calibration.text_files import text_lines

    if not inputs.is_file():
        what = "beginning of a text" if is_language(folder) else "sentence"
        raise ArchNetError(f"{inputs} is no file", fix=f"name a text with one {what} a line")
    lines = text_lines(inputs)
    quiet_libraries()
    import archnet

    model = archnet.load(folder, backend=backend)
    write = model.complete if is_language(folder) else model.translate
    found = write(lines, num_beams=beams, max_length=max_length)
    # What is written may hold line breaks; a line stays a line.
    whole = (" ".join(line.splitlines()) for line in found)
    write_bytes(outputs, "".join(f"{line}\n" for line in whole).encode())
    click.echo(f"{outputs}: {len(found)} lines")


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file; pickled objects are never read.

    Raises:
        ArchNetError: the file is missing, no .npz, damaged, or holds something else than plain arrays.
    """
    import numpy as np

    fix = "write it with numpy.savez('X.npz', input_ids=..., attention_mask=...), or pixel_values=..."
    try:
        content = np.load(path, allow_pickle=False)
        if not isinstance(content, np.lib.npyio.NpzFile):
            raise ArchNetError(f"{path} is no .npz file: it has one array without a name", fix=fix)
        with content:
            return {name: content[name] for name in content.files}
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ArchNetError(f"{path} cannot be read: {reason}", fix=fix) from error
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        raise ArchNetError(f"{path} is no .npz file of plain arrays, or is damaged", fix=fix) from error


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write an .npz file whole or not at all."""
    import numpy as np

    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
