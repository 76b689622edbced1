"""What the attention mask, position tables and other by-products of a captured graph amount to.

Libraries write masks and position indices in dozens of ways, and rewrite them in every release.
Instead of matching their operators, the values are computed on probe inputs and recognised by what
they are: a constant, or the padding mask of the keys. Anything else is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, fx

from archnet.converters.softmax import HIDDEN
from archnet.errors import ArchNetError

NEGLIGIBLE = -1e3
"""An additive mask at or below this value removes its key."""


class _Recorder(fx.Interpreter):
    """Runs a graph up to the last wanted node and keeps the values of those nodes."""

    def __init__(self, module: fx.GraphModule, wanted: Sequence[fx.Node]) -> None:
        super().__init__(module)
        self.wanted = set(wanted)
        self.recorded: dict[fx.Node, Tensor] = {}

    def run_node(self, n: fx.Node) -> object:
        if n.op == "call_module" and n.name.startswith("_guards"):
            return None
        value = super().run_node(n)
        if n in self.wanted and isinstance(value, Tensor):
            self.recorded[n] = value.detach().clone()
        return value


@dataclass(frozen=True, slots=True)
class Probe:
    """One set of probe inputs by name: (batch, sequence) int64 each, or images float32."""

    values: Mapping[str, Tensor]

    @property
    def input_ids(self) -> Tensor:
        """Token ids, of the source where there are two sequences."""
        return self.values["input_ids"]

    @property
    def attention_mask(self) -> Tensor:
        """Their mask."""
        return self.values["attention_mask"]

    def inputs(self, names: Sequence[str]) -> list[Tensor]:
        """The values of these inputs."""
        return [self.values[name] for name in names]


PADDED_SEQUENCES = {"": 8, "decoder_": 6}
"""Lengths of the short padded probe; they differ, so that source and target cannot be confused."""


def make_probes(
    vocabulary: int, sequence: int, *, padding: int | None, sides: Sequence[str] = ("",)
) -> tuple[Probe, Probe, Probe]:
    """Two full probes of different tokens at `sequence`, and a short padded one of 3 rows.

    Args:
        sides: prefixes of the inputs: "", and "decoder_" of a decoder's.
    """
    generator = torch.Generator().manual_seed(0)
    allowed = torch.tensor([i for i in range(vocabulary) if i != padding])

    def tokens(batch: int, length: int) -> Tensor:
        return allowed[torch.randint(len(allowed), (batch, length), generator=generator)]

    def full(batch: int) -> Probe:
        values: dict[str, Tensor] = {}
        for side in sides:
            ids = tokens(batch, sequence)
            values |= {f"{side}input_ids": ids, f"{side}attention_mask": torch.ones_like(ids)}
        return Probe(values)

    def padded() -> Probe:
        values: dict[str, Tensor] = {}
        for side in sides:
            length = PADDED_SEQUENCES[side]
            mask = torch.ones(3, length, dtype=torch.int64)
            mask[1, length - 3 :] = 0
            mask[2, 2:] = 0
            ids = tokens(3, length)
            if padding is not None:
                ids[mask == 0] = padding
            values |= {f"{side}input_ids": ids, f"{side}attention_mask": mask}
        return Probe(values)

    return full(2), full(2), padded()


@torch.no_grad()
def record(
    module: fx.GraphModule, names: Sequence[str], probe: Probe, wanted: Sequence[fx.Node]
) -> dict[fx.Node, Tensor]:
    """The values that the wanted nodes take on a probe.

    Raises:
        ArchNetError: the model does not take sequences of this length, or batches of this size.
    """
    recorder = _Recorder(module, wanted)
    try:
        recorder.run(*probe.inputs(names))
    except (RuntimeError, IndexError) as error:
        ids = next((v for name, v in probe.values.items() if name.endswith("input_ids")), None)
        said = str(error).strip().splitlines()[0][:200]
        if ids is None:
            raise ArchNetError(
                f"the captured model takes batches of one size only: {said}",
                fix="take its size from x.shape[0], not from len(x), which torch.export makes a constant",
            ) from error
        raise ArchNetError(
            f"the model fails on a sequence of {ids.shape[1]} tokens: {said}",
            fix="give the greatest number of tokens that it takes as --seq-len",
        ) from error
    return recorder.recorded


def constant_of(first: Tensor, second: Tensor) -> Tensor | None:
    """The value common to two probes and all their rows, without the batch axis; None if it varies."""
    if first.shape != second.shape or not torch.equal(first, second):
        return None
    if first.dim() and first.shape[0] > 1:
        if not torch.equal(first, first[:1].expand_as(first)):
            return None
        return first[0]
    return first[0] if first.dim() and first.shape[0] == 1 else first


def visibility_of(mask: Tensor, queries: Tensor, keys: Tensor) -> Literal["padding", "causal"] | None:
    """What a mask given to attention, (batch, 1 or heads, queries, keys), lets a query see.

    Only rows of valid queries count: what a padded token attends to reaches nobody. Padding is on the
    right, so that the keys up to a valid query's own place are never padding.

    Args:
        queries: mask of the sequence that asks, (batch, queries).
        keys: mask of the sequence that is asked, (batch, keys).

    Returns:
        "padding": all keys that are no padding; "causal": keys up to its own place; None: something else.
    """
    keep = mask if mask.dtype == torch.bool else mask > NEGLIGIBLE
    if mask.dtype != torch.bool and not torch.all((mask == 0) | (mask <= NEGLIGIBLE)):
        return None
    size = (queries.shape[1], keys.shape[1])
    try:
        keep = keep.expand(queries.shape[0], keep.shape[1], *size)
    except RuntimeError:
        return None
    valid = queries.bool()[:, None, :, None].expand_as(keep)
    padding = keys.bool()[:, None, None, :].expand_as(keep)
    if torch.equal(keep & valid, padding & valid):
        return "padding"
    causal = torch.ones(size, dtype=torch.bool).tril().expand_as(keep)
    return "causal" if size[0] == size[1] and torch.equal(keep & valid, causal & valid) else None


def window_of(full: Tensor, padded: Tensor, keys: Tensor) -> Tensor | None:
    """Which pairs of positions a mask lets see each other besides hiding padding, as a bias; None if other.

    Args:
        full: the mask where nothing is padding, (1 or heads, queries, keys) at least in its last axes.
        padded: the same of a shorter batch, (batch, 1 or heads, queries, keys).
        keys: mask of its tokens, (batch, keys).

    Returns:
        float32 (1 or heads, queries, keys): 0 where a query sees a key, else HIDDEN.
    """
    seen = full if full.dtype == torch.bool else full > NEGLIGIBLE
    if full.dtype != torch.bool and not torch.all((full == 0) | (full <= NEGLIGIBLE)):
        return None
    seen = seen.reshape(-1, *seen.shape[-2:])
    length = keys.shape[1]
    valid = keys.bool()[:, None, :, None]
    expected = seen[:, :length, :length] & keys.bool()[:, None, None, :]
    kept = padded if padded.dtype == torch.bool else padded > NEGLIGIBLE
    if kept.dim() != 4 or bool(((kept & valid) != (expected & valid)).any()):
        return None
    return torch.where(seen, 0.0, HIDDEN)


def bias_before(full: Tensor, padded: Tensor, keys: Tensor) -> Tensor | None:
    """The bias of pairs of positions in a causal mask, 0 for later keys; None if it is something else.

    Args:
        full, padded, keys: as of `window_of`.

    Returns:
        float32 (1 or heads, queries, keys).
    """
    if full.dtype == torch.bool or padded.dim() != 4:
        return None
    bias = full.reshape(-1, *full.shape[-2:]).float()
    earlier = torch.ones(bias.shape[-2:], dtype=torch.bool).tril()
    if not torch.equal(bias > NEGLIGIBLE, earlier.expand_as(bias)):
        return None
    length = keys.shape[1]
    counts = earlier[:length, :length] & keys.bool()[:, None, :, None]
    if bool((torch.where(counts, padded - bias[:, :length, :length], 0.0).abs() > 1e-5).any()):
        return None
    later = ~earlier[:length, :length] & keys.bool()[:, None, :, None]
    hidden = torch.where(later, padded, NEGLIGIBLE) <= NEGLIGIBLE
    return torch.where(earlier, bias, 0.0) if bool(hidden.all()) else None


def from_own_place(bias: Tensor, *, causal: bool) -> Tensor:
    """A bias that keys have for every query alike, as what it is beyond that of the query's own place.

    Softmax does not change when all scores of a query rise by the same number, so a slope times a key's place
    and the slope times its distance are one (ALiBi, arXiv 2108.12409, section 3). Only the distance is small
    where it counts, however long a text is, which is what a table of integers wants.

    Args:
        bias: float32 (1 or heads, 1 or queries, keys) of one sequence.
        causal: whether keys behind a query's own place are hidden, whatever their bias.

    Returns:
        float32 (1 or heads, queries, keys), never below HIDDEN; another bias as it is.
    """
    square = bias.expand(-1, bias.shape[-1], -1)
    counts = torch.ones(square.shape[1:], dtype=torch.bool).tril(0 if causal else bias.shape[-1])
    last = square[:, -1:].expand_as(square)
    if not torch.equal(torch.where(counts, square, last), last):
        return bias
    return (square - square.diagonal(dim1=1, dim2=2)[:, :, None]).clamp_min(HIDDEN)


def hides_padding(mask: Tensor, keys: Tensor) -> bool:
    """Whether an additive mask, (batch or 1, 1 or heads, queries, keys), hides every padded key."""
    padded = ~keys.bool()[:, None, None, :]
    return bool((torch.where(padded, mask, NEGLIGIBLE) <= NEGLIGIBLE).all())


def side_constant(first: Tensor, second: Tensor, *, batched_rank: int) -> Tensor | None:
    """The value of a side node without its batch axis, which it has when its rank is `batched_rank`."""
    if first.dim() >= batched_rank:
        return constant_of(first, second)
    return first if first.shape == second.shape and torch.equal(first, second) else None
