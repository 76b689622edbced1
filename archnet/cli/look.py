"""`archnet targets` and `archnet inspect`: what can be had, before any training."""

from __future__ import annotations

import click

from archnet.atomic import human_bytes
from archnet.cli.app import app, examples, print_json, quiet_libraries, terminal
from archnet.cli.completions import (
    attention_option,
    bits_option,
    complete_chips,
    ffn_width_option,
    head_width_option,
    norms_option,
    target_option,
)
from archnet.config import AUTO_BITS, HeadWidth, check_ffn_width, check_length, known_norms
from archnet.errors import ArchNetError

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of tables."
)


def complete_toolchains(context: click.Context, argument: click.Parameter, incomplete: str) -> list[str]:
    """The names of toolchains that begin with what was typed."""
    from archnet.targets.toolchain import TOOLCHAINS

    return [toolchain.name for toolchain in TOOLCHAINS if toolchain.name.startswith(incomplete)]


@app.group(
    short_help="List the targets; install compilers of chips.",
    invoke_without_command=True,
    epilog=examples("archnet targets", "archnet targets --json", "archnet targets install ethos-u"),
)
@json_option
@click.pass_context
def targets(context: click.Context, as_json: bool) -> None:
    """List the targets: what each is, its bit widths, and what is exported for it.

    Below them: compilers of chips, each in an environment of its own, and the chips that archnet compile
    compiles for with them.
    """
    if context.invoked_subcommand is not None:
        return
    from archnet.targets.chips import CHIPS
    from archnet.targets.profile import list_profiles
    from archnet.targets.toolchain import TOOLCHAINS

    profiles = list_profiles()
    if as_json:
        import dataclasses

        print_json(
            {
                "profiles": [profile.to_json() for profile in profiles],
                "toolchains": [toolchain.to_json() for toolchain in TOOLCHAINS],
                "chips": [dataclasses.asdict(chip) for chip in CHIPS],
            }
        )
        return
    from archnet.cli.tables import chips_table, targets_table, toolchains_table

    terminal().print(targets_table(profiles))
    terminal().print(toolchains_table(TOOLCHAINS))
    terminal().print(chips_table(CHIPS))


@targets.command(
    short_help="Install the compiler of a chip.", epilog=examples("archnet targets install ethos-u")
)
@click.argument("name", shell_complete=complete_toolchains)
@click.option(
    "--accept-licence", is_flag=True, help="Agree to the vendor's terms, where they are no open ones."
)
def install(name: str, accept_licence: bool) -> None:
    """Install the toolchain NAME, with pinned versions, into an environment of its own."""
    from archnet.targets.toolchain import find_toolchain
    from archnet.targets.toolchain import install as make

    toolchain = find_toolchain(name)
    click.echo(f"{toolchain.title}: {', '.join(toolchain.packages)}")
    click.echo(f"licence {toolchain.licence}; {human_bytes(toolchain.bytes)}; into {toolchain.folder}")
    if toolchain.proprietary and not accept_licence:
        raise ArchNetError(
            f"the toolchain {name} is under the vendor's own terms: {toolchain.proprietary}",
            fix=f"read them; archnet targets install {name} --accept-licence",
        )
    make(toolchain, click.echo)
    click.echo("installed")


@targets.command(
    short_help="Remove the compiler of a chip.", epilog=examples("archnet targets remove ethos-u")
)
@click.argument("name", shell_complete=complete_toolchains)
def remove(name: str) -> None:
    """Remove the environment of the toolchain NAME."""
    from archnet.targets.toolchain import find_toolchain
    from archnet.targets.toolchain import remove as delete

    toolchain = find_toolchain(name)
    click.echo(f"{toolchain.folder} {'is removed' if delete(toolchain) else 'was not there'}")


@app.command(
    short_help="Show what becomes of each operator of a model.",
    epilog=examples(
        "archnet inspect ./all-MiniLM-L6-v2 --target archnet",
        "archnet inspect ./bert --target archnet --attention relu",
        "archnet inspect ./bert --target tvm --bits w4a4",
        "archnet inspect model.py:make --target onnxruntime --json",
        "archnet inspect ./bert --target k230 --chip k230 --seq-len 32",
    ),
)
@click.argument("model")
@target_option
@bits_option("WxAy")
@attention_option
@norms_option
@head_width_option
@ffn_width_option
@click.option("--seq-len", default=128, show_default=True, metavar="N", help="Longest sequence, in tokens.")
@click.option(
    "--chip",
    metavar="NAME",
    shell_complete=complete_chips,
    help="First ask this chip's own compiler what it makes of MODEL unchanged; takes minutes.",
)
@json_option
def inspect(
    model: str,
    target: str,
    bits: str,
    attention: str | None,
    norms: str,
    head_width: str | None,
    ffn_width: int | None,
    seq_len: int,
    chip: str | None,
    as_json: bool,
) -> None:
    """Show every operator of MODEL and what becomes of it on a target; takes seconds, needs no data.

    Exits with 2 when something cannot be converted.
    """
    from archnet.targets.profile import load_profile

    profile = load_profile(target)  # a misspelt name is told before torch loads
    profile.choose_attention(attention)
    known_norms(norms)
    if head_width is not None:
        HeadWidth.parse(head_width)
    check_ffn_width(ffn_width)
    check_length(seq_len)
    if bits.strip().lower() == AUTO_BITS:
        raise ArchNetError(
            "--bits auto is chosen by measurements of the distilled network, which inspect does not make",
            fix="name widths such as w4a8; `archnet convert` takes --bits auto",
        )
    profile.ask_bits(bits, None)
    if chip is not None:
        from archnet.original import askable

        askable(chip)
    quiet_libraries()
    from archnet import api

    plan = api.inspect(
        model, target, seq_len=seq_len, attention=attention, norms=norms, head_width=head_width,
        ffn_width=ffn_width, bits=bits,
    )  # fmt: skip
    if chip is not None:
        click.echo(f"asking the compiler of {chip} about the model unchanged; this takes minutes", err=True)
    answer = None if chip is None else api.original_on_chip(model, chip, seq_len=seq_len)
    if as_json:
        print_json(plan.to_json() | ({} if answer is None else {"original": answer.to_json()}))
    else:
        from archnet.cli.tables import original_table, plan_table

        if answer is not None:
            terminal().print(original_table(answer))
        terminal().print(plan_table(plan))
    if plan.refusals:
        raise ArchNetError(
            f"{model} cannot be converted for {target}: {len(plan.refusals)} places are refused",
            fix="choose another --target, or add a converter for them (docs/add_a_converter.md)",
        )
