"""`archnet completion`: the script that makes a shell complete commands, options and names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
from click.shell_completion import CompletionItem, get_completion_class

from archnet.cli.app import app, examples
from archnet.config import ATTENTION_FORMS, AUTO_BITS, KNOWN_BITS, NORM_FORMS

SHELLS = ("bash", "zsh", "fish")


def complete_targets(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
    """The names of targets that begin with what was typed."""
    from archnet.targets.profile import list_profiles

    return [profile.name for profile in list_profiles() if profile.name.startswith(incomplete)]


def complete_chips(context: click.Context, option: click.Parameter, incomplete: str) -> list[str]:
    """The names of chips that begin with what was typed."""
    from archnet.targets.chips import CHIPS

    return [chip.name for chip in CHIPS if chip.name.startswith(incomplete)]


def complete_from(
    names: Sequence[str],
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem | str]]:
    """A completer of fixed names."""
    return lambda context, option, incomplete: [name for name in names if name.startswith(incomplete)]


target_option = click.option(
    "--target",
    required=True,
    metavar="NAME",
    shell_complete=complete_targets,
    help="See `archnet targets`; or the path of a profile (.toml).",
)


def bits_option(metavar: str) -> Callable[[click.decorators.FC], click.decorators.FC]:
    """The --bits of commands that convert or look: "WxAy", with "|auto" where widths can be chosen."""
    names = (*KNOWN_BITS, AUTO_BITS) if AUTO_BITS in metavar else KNOWN_BITS
    chosen = "; auto: chosen layer by layer" if AUTO_BITS in metavar else ""
    return click.option(
        "--bits",
        default="w8a8",
        show_default=True,
        metavar=metavar,
        shell_complete=complete_from(names),
        help=f"Widths of weights (8, 4, 3, 2) and activations (8, 6, 4){chosen}.",
    )


attention_option = click.option(
    "--attention",
    metavar="|".join(ATTENTION_FORMS),
    shell_complete=complete_from(ATTENTION_FORMS),
    help="Form of attention.  [default: the target's]",
)

norms_option = click.option(
    "--norms",
    default=NORM_FORMS[0],
    show_default=True,
    metavar="|".join(NORM_FORMS),
    shell_complete=complete_from(NORM_FORMS),
    help="Form of LayerNorm and RMSNorm: static numbers alone, or corrected by a small layer behind each.",
)

head_width_option = click.option(
    "--head-width",
    metavar="N[,M]",
    help="Narrow each head of attention to N features (M of values): fewer weights and products.  "
    "[default: as it is]",
)

ffn_width_option = click.option(
    "--ffn-width",
    type=int,
    metavar="N",
    help="Narrow each feed-forward part to N features: fewer weights and products.  [default: as it is]",
)


@app.command(
    short_help="Print a shell's completion script.",
    epilog=examples(
        'eval "$(archnet completion bash)"',
        "archnet completion bash > ~/.local/share/bash-completion/completions/archnet",
        "archnet completion zsh > ~/.zfunc/_archnet",
        "archnet completion fish > ~/.config/fish/completions/archnet.fish",
    ),
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the completion script of SHELL (bash, zsh or fish)."""
    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(app, {}, "archnet", "_ARCHNET_COMPLETE")
    # `source()` would start a bash to look at its version; the script itself is the same.
    click.echo(script.source_template % script.source_vars())
