"""`archnet targets` and `archnet inspect`: what can be had, before any training."""

from __future__ import annotations

import click

from archnet.cli.app import app, examples, print_json, quiet_libraries, terminal
from archnet.cli.completions import attention_option, bits_option, target_option
from archnet.config import AUTO_BITS
from archnet.errors import ArchNetError

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead of tables."
)


@app.command(short_help="List the targets.", epilog=examples("archnet targets", "archnet targets --json"))
@json_option
def targets(as_json: bool) -> None:
    """List the targets: what each is, its bit widths, and what is exported for it."""
    from archnet.targets.profile import list_profiles

    profiles = list_profiles()
    if as_json:
        print_json([profile.to_json() for profile in profiles])
        return
    from archnet.cli.tables import targets_table

    terminal().print(targets_table(profiles))


@app.command(
    short_help="Show what becomes of each operator of a model.",
    epilog=examples(
        "archnet inspect ./all-MiniLM-L6-v2 --target archnet",
        "archnet inspect ./bert --target archnet --attention relu",
        "archnet inspect ./bert --target tvm --bits w4a4",
        "archnet inspect model.py:make --target onnxruntime --json",
    ),
)
@click.argument("model")
@target_option
@bits_option("WxAy")
@attention_option
@json_option
def inspect(model: str, target: str, bits: str, attention: str | None, as_json: bool) -> None:
    """Show every operator of MODEL and what becomes of it on a target; takes seconds, needs no data.

    Exits with 2 when something cannot be converted.
    """
    from archnet.targets.profile import load_profile

    profile = load_profile(target)  # a misspelt name is told before torch loads
    profile.choose_attention(attention)
    if bits.strip().lower() == AUTO_BITS:
        raise ArchNetError(
            "--bits auto is chosen by measurements of the distilled network, which inspect does not make",
            fix="name widths such as w4a8; `archnet convert` takes --bits auto",
        )
    profile.ask_bits(bits, None)
    quiet_libraries()
    from archnet import api

    plan = api.inspect(model, target, attention=attention, bits=bits)
    if as_json:
        print_json(plan.to_json())
    else:
        from archnet.cli.tables import plan_table

        terminal().print(plan_table(plan))
    if plan.refusals:
        raise ArchNetError(
            f"{model} cannot be converted for {target}: {len(plan.refusals)} places are refused",
            fix="choose another --target, or add a converter for them (docs/add_a_converter.md)",
        )
