from __future__ import annotations

import shlex

import pytest

from archnet.command_lines import options_of, wrapped

LINE = "archnet convert ./a-model --data 'my texts/' --bits w8a8 --out build"


@pytest.mark.parametrize("width", [10, 30, 50, 200])
def test_a_wrapped_command_is_the_same_command(width: int) -> None:
    lines = wrapped(options_of(LINE), width)
    # What a shell does with a backslash at the end of a line.
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(LINE)
    parts = [len(part) + 2 for part in options_of(LINE)]
    assert all(len(line.removesuffix(" \\")) <= max(width, *parts) for line in lines)


def test_lines_are_filled() -> None:
    assert wrapped(["archnet run x", "--inputs a", "--outputs b"], 24) == [
        "archnet run x --inputs a \\",
        "  --outputs b",
    ]
