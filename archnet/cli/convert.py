"""`archnet quickstart` and `archnet convert`: the two commands that make a build folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from archnet.cli.app import Session, app, examples, program, quiet_libraries, session, shown, terminal
from archnet.cli.completions import (
    attention_option,
    bits_option,
    complete_from,
    ffn_width_option,
    head_width_option,
    norms_option,
    target_option,
)
from archnet.cli.method import MethodCommand, method_options
from archnet.config import EMBEDDING_FORMS, PRESETS

json_log_option = click.option(
    "--json-log",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also append one JSON object an event to FILE.",
)


def out_option(default: str | None = None) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The --out of commands that make a build folder."""
    return click.option(
        "--out",
        type=click.Path(path_type=Path, file_okay=True),
        default=default,
        required=default is None,
        show_default=default is not None,
        metavar="DIR",
        help="The build folder: new, empty, or begun by this same command.",
    )


@app.command(
    short_help="Convert a small model that pip brings.",
    epilog=examples(
        "archnet quickstart",
        "archnet quickstart --out /tmp/minilm --json-log events.jsonl",
    ),
)
@out_option("archnet-quickstart")
@json_log_option
@session
def quickstart(state: Session, out: Path, json_log: Path | None) -> None:
    """Convert all-MiniLM-L6-v2 to int8, from what pip has installed, and report on it.

    Needs no download and no data of yours. Killed or stopped, the same command goes on.
    """
    state.folder = out
    quiet_libraries()
    with shown(f"archnet quickstart: all-MiniLM-L6-v2 to int8 in {out}", json_log) as events:
        from archnet.quickstart import quickstart as run

        folder = run(out, events)
    _tell_end(folder)


@app.command(
    cls=MethodCommand,
    short_help="Convert a model and write a build folder.",
    epilog=examples(
        "archnet convert ./all-MiniLM-L6-v2 --data sentences.txt --target archnet --bits w8a8 --out build",
        "archnet convert ./bert --data texts/ --target onnxruntime --bits w8a8 --out build --preset fast",
        "archnet convert model.py:make --data texts/ --target tvm --bits w8a8 --out build --seq-len 64",
        "archnet convert ./bert --data texts/ --target archnet --bits w8a8 --out build --embedding code",
        "archnet convert ./bert --data texts/ --target tvm --bits auto --max-drop 0.5 --out build",
        "archnet convert ./bert --data texts/ --target tvm --bits w4a8 --out build4 --reuse build",
        "archnet convert ./vit --data pictures.zip --target archnet --out build --norms corrected",
        "archnet convert ./bert --data texts/ --target ethos-u55 --out build --head-width 8,16",
        "archnet convert ./bert --data texts/ --target tvm --out build --periods blocks --block-decay 0.8",
    ),
)
@click.argument("model")
@click.option(
    "--data",
    required=True,
    metavar="FILE_OR_DIR",
    help="Unlabelled data like that of the task: a file with one sentence a line, a folder of such files, or "
    "for an image classifier a folder or .zip of pictures, or what it reads as arrays (.npz).",
)
@target_option
@bits_option("WxAy|auto")
@click.option(
    "--max-drop",
    type=float,
    metavar="POINTS",
    help="With --bits auto: what fewer bits may cost, in points of the metric, by an estimate.",
)
@out_option()
@click.option(
    "--preset",
    default="balanced",
    show_default=True,
    metavar="|".join(PRESETS),
    shell_complete=complete_from(PRESETS),
    help="How long to train.",
)
@click.option("--seq-len", default=128, show_default=True, metavar="N", help="Longest sequence, in tokens.")
@click.option("--seed", default=0, show_default=True, metavar="N", help="Of all random numbers.")
@click.option(
    "--embedding",
    metavar="|".join(EMBEDDING_FORMS),
    shell_complete=complete_from(EMBEDDING_FORMS),
    help="Form of the word embedding.  [default: the target's]",
)
@attention_option
@norms_option
@head_width_option
@ffn_width_option
@click.option(
    "--reuse",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Take the distillation of a finished build of the same model and data: other --bits, --target, "
    "--embedding or --quantizer need no second one.",
)
@method_options
@json_log_option
@session
def convert(
    state: Session,
    model: str,
    data: str,
    target: str,
    bits: str,
    max_drop: float | None,
    out: Path,
    preset: str,
    seq_len: int,
    seed: int,
    embedding: str | None,
    attention: str | None,
    norms: str,
    head_width: str | None,
    ffn_width: int | None,
    reuse: Path | None,
    quantizer: str,
    periods: str,
    block_decay: float,
    adaptation: str,
    sequences: str,
    json_log: Path | None,
) -> None:
    """Convert MODEL for a target, without labels, and write a build folder.

    MODEL is a Hugging Face or sentence-transformers folder, a hub name, or path/to/file.py:factory
    (which RUNS THAT FILE'S CODE).

    Killed or stopped with Ctrl-C, the same command goes on where it was.
    """
    from archnet.config import AUTO_BITS, ConvertSettings, HeadWidth
    from archnet.method import Method
    from archnet.targets.profile import load_profile

    # What can be refused at once is refused before torch loads.
    profile = load_profile(target)
    width = profile.ask_bits(bits, max_drop)
    asked = ConvertSettings(
        target, width, preset, seq_len, seed, embedding or profile.embedding_forms[0],
        attention=attention or profile.attention_forms[0], max_drop=max_drop,
        norms=norms, method=Method(quantizer, periods, block_decay, adaptation, sequences),
        head_width=None if head_width is None else HeadWidth.parse(head_width),
        ffn_width=ffn_width,
    )  # fmt: skip
    profile.choose_embedding(embedding)
    profile.choose_attention(attention)
    state.folder = out
    quiet_libraries()
    with shown(f"archnet convert: {model} to {target}, {asked.asked_bits}, in {out}", json_log) as events:
        from archnet.api import convert as run

        folder = run(
            model,
            data,
            target=target,
            bits=str(width) if max_drop is None else AUTO_BITS,
            max_drop=max_drop,
            out=out,
            preset=preset,
            seq_len=seq_len,
            seed=seed,
            embedding=embedding,
            attention=attention,
            norms=norms,
            head_width=head_width,
            ffn_width=ffn_width,
            reuse=reuse,
            quantizer=quantizer,
            periods=periods,
            block_decay=block_decay,
            adaptation=adaptation,
            sequences=sequences,
            events=events,
        )
    _tell_end(folder)


def _tell_end(folder: Path) -> None:
    from archnet.build import BuildDir
    from archnet.cli.tables import end_table
    from archnet.results import read_metrics

    metrics = read_metrics(BuildDir.open_finished(folder).metrics)
    terminal().print(end_table(folder, metrics, program()))
