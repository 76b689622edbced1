"""Tokens of a map in the order of windows, which hierarchical vision Transformers attend within.

Tokens are a map's places row by row. In windows (Swin, arXiv 2103.14030, section 3.2) the map is filled up
with zeros at its lower and right end, moved cyclically, and cut into windows; the tokens of a window follow
each other. The neighbours that patch merging puts side by side are windows, too. A window may also be spread
over the map, every few places one (MobileViT, arXiv 2110.02178, section 3.1, whose pixels at one place of
their patches attend to each other; the grids of MaxViT, arXiv 2204.01697). The inverse leads back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Step:
    """One move of a tensor's elements, of four axes at most, such as every chip's compiler has.

    kind: "reshape" to (-1, *sizes); "swap" of the second axis and the third; "roll" of `axis`, which takes
    its first `count` elements to its end; "pad" with `count` zeros at the end of `axis`; "crop" of `axis` to
    its first `count` elements.
    """

    kind: Literal["reshape", "swap", "roll", "pad", "crop"]
    axis: int = 0
    count: int = 0
    sizes: tuple[int, ...] = ()

    def shape(self, before: Sequence[int]) -> list[int]:
        """The sizes of what it makes of a tensor of these sizes."""
        after = list(before)
        if self.kind == "reshape":
            after = [prod(before) // prod(self.sizes), *self.sizes]
        elif self.kind == "swap":
            after[1], after[2] = after[2], after[1]
        elif self.kind in ("pad", "crop"):
            after[self.axis] = self.count + (after[self.axis] if self.kind == "pad" else 0)
        return after


@dataclass(frozen=True, slots=True)
class Windows:
    """Which windows.

    Attributes:
        height, width: of the map.
        window_y, window_x: height and width of a window.
        shift_y, shift_x: how far the map moves up and left before it is cut.
        pad_y, pad_x: rows and columns of zeros that fill it up before that.
        inverse: from the order of windows back to the map.
        spread: a window takes one place of every patch, as many patches down and across as it has places,
            instead of neighbours; the windows follow each other as their places do within a patch.
    """

    height: int
    width: int
    window_y: int
    window_x: int
    shift_y: int = 0
    shift_x: int = 0
    pad_y: int = 0
    pad_x: int = 0
    inverse: bool = False
    spread: bool = False

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Windows:
        """What the attributes of a site or a node say."""
        return cls(
            **{field.name: attributes[field.name] for field in fields(cls) if field.name in attributes}
        )

    def attributes(self) -> dict[str, int | bool]:
        """The attributes of a site or a node; `spread` where it is so, which older files do not know."""
        return {name: value for name, value in asdict(self).items() if name != "spread" or value}

    @property
    def filled(self) -> tuple[int, int]:
        """Height and width with the zeros."""
        return self.height + self.pad_y, self.width + self.pad_x

    @property
    def tokens(self) -> tuple[int, int]:
        """How many tokens are read, and how many there are then."""
        before, after = self.height * self.width, self.filled[0] * self.filled[1]
        return (after, before) if self.inverse else (before, after)

    @property
    def adds_zeros(self) -> bool:
        """Whether zeros stand among the results."""
        return self.tokens[1] > self.tokens[0]

    def source(self, place: Any) -> tuple[Any, Any, Any]:
        """Which token comes to a place.

        Args:
            place: a number, or what computes like one: an array, an expression of a compiler.

        Returns:
            The token, and the row and column of the map that it stands for: beyond its height or width is a
            zero.
        """
        height, width = self.filled
        across, size = width // self.window_x, self.window_y * self.window_x
        if self.inverse:
            row, column = place // self.width, place % self.width
            down, y = self._parted((row + (height - self.shift_y)) % height, 0)
            right, x = self._parted((column + (width - self.shift_x)) % width, 1)
            return (down * across + right) * size + y * self.window_x + x, row, column
        window, inside = place // size, place % size
        y = (self._joined(window // across, inside // self.window_x, 0) + self.shift_y) % height
        x = (self._joined(window % across, inside % self.window_x, 1) + self.shift_x) % width
        return y * self.width + x, y, x

    def _axis(self, axis: int) -> tuple[int, int]:
        """How many windows there are down (0) or across (1), and how many places of each."""
        size = (self.window_y, self.window_x)[axis]
        return self.filled[axis] // size, size

    def _parted(self, y: Any, axis: int) -> tuple[Any, Any]:
        """Which window a row (axis 0) or column (1) is in, and which of its own it is."""
        count, size = self._axis(axis)
        return (y % count, y // count) if self.spread else (y // size, y % size)

    def _joined(self, window: Any, inside: Any, axis: int) -> Any:
        """The row or column of a window's own."""
        count, size = self._axis(axis)
        return inside * count + window if self.spread else window * size + inside

    def order(self) -> NDArray[np.int64]:
        """The token at every place, -1 for a zero."""
        token, y, x = self.source(np.arange(self.tokens[1]))
        return np.where((y < self.height) & (x < self.width), token, -1)

    def steps(self, features: int) -> tuple[Step, ...]:
        """The moves that make it of (batch, tokens, features)."""
        shifts, pads = (self.shift_y, self.shift_x), (self.pad_y, self.pad_x)
        result = Step("reshape", sizes=(self.tokens[1], features))
        if self.inverse:
            whole = Step("reshape", sizes=(*self.filled, features))
            back = (Step("roll", i, self.filled[i - 1] - shifts[i - 1]) for i in (1, 2) if shifts[i - 1])
            small = (self.height, self.width)
            crops = (Step("crop", i, small[i - 1]) for i in (1, 2) if pads[i - 1])
            return (*self._apart(features), whole, *back, *crops, result)
        given = Step("reshape", sizes=(self.height, self.width, features))
        filled = (Step("pad", i, pads[i - 1]) for i in (1, 2) if pads[i - 1])
        rolled = (Step("roll", i, shifts[i - 1]) for i in (1, 2) if shifts[i - 1])
        return (given, *filled, *rolled, *self._apart(features), result)

    def _apart(self, features: int) -> tuple[Step, ...]:
        """The moves that cut a filled map into windows, or the way back; two axes change places at a time.

        A map's rows are (windows, their places), and so are its columns, or the other way round where windows
        are spread; in windows it is (windows down, windows across, places down, places across).
        """
        (down, high), (across, wide) = self._axis(0), self._axis(1)
        swap = Step("swap")
        if not self.spread:
            sizes = (across, high, wide * features) if self.inverse else (high, across, wide * features)
            return Step("reshape", sizes=sizes), swap
        if self.inverse:
            columns = Step("reshape", sizes=(across, high * wide, features))
            return columns, swap, Step("reshape", sizes=(down, high, wide * across * features)), swap
        rows = Step("reshape", sizes=(high, down, wide * across * features))
        return rows, swap, Step("reshape", sizes=(high * wide, across, features)), swap


def windows_of(order: NDArray[np.int64], tokens: int) -> Windows | None:
    """The plainest windows that put so many tokens into this order (-1 is a zero); None if none do."""
    return min(_candidates(order, tokens), key=_plainness, default=None)


def every_other(order: NDArray[np.int64], tokens: int) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """The map and the steps down and across that leave these of so many tokens; None where none do."""
    if len(order) < 2 or order[0] != 0 or len(order) >= tokens:
        return None
    for height in _divisors(tokens):
        width = tokens // height
        for right in range(1, width + 1):
            across = -(-width // right)
            if len(order) % across or (across > 1 and order[1] != right):
                continue
            down = int(order[across]) // width if len(order) > across else height
            grid = np.arange(tokens).reshape(height, width)[:: max(down, 1), ::right]
            if np.array_equal(grid.ravel(), order):
                return (height, width), (down, right)
    return None


def _plainness(windows: Windows) -> tuple[int, ...]:
    filling, flatness = windows.pad_y + windows.pad_x, abs(windows.height - windows.width)
    shift = windows.shift_y + windows.shift_x
    return filling, flatness, windows.spread, windows.inverse, shift, windows.window_y


def _candidates(order: NDArray[np.int64], tokens: int) -> Iterator[Windows]:
    for inverse, spread in product((False, True), repeat=2):
        small, large = (len(order), tokens) if inverse else (tokens, len(order))
        begins = np.flatnonzero(order == 0) if inverse else order[:1]
        if small > large or len(begins) > 1:
            continue
        first = int(begins[0]) if len(begins) else -1
        for height, whole_y in product(_divisors(small), _divisors(large)):
            width, whole_x = small // height, large // whole_y
            pads = whole_y - height, whole_x - width
            for window in product(_divisors(whole_y), _divisors(whole_x)):
                for shifts in _shifts(first, width, window) if min(pads) >= 0 else ():
                    made = Windows(height, width, *window, *shifts, *pads, inverse, spread)
                    if _seems(made, order) and np.array_equal(made.order(), order):
                        yield made


def _shifts(first: int, width: int, window: tuple[int, int]) -> list[tuple[int, int]]:
    """What a map can have moved by, less than a window, when it begins with this token (-1: with none)."""
    known = [divmod(first, width)] if first >= 0 else product(range(window[0]), range(window[1]))
    return [(y, x) for y, x in known if y < window[0] and x < window[1]]


def _seems(windows: Windows, order: NDArray[np.int64]) -> bool:
    """Whether a few places are right, which nearly no wrong windows have."""
    for place in {0, min(1, len(order) - 1), len(order) // 3, len(order) // 2, len(order) - 1}:
        token, y, x = windows.source(place)
        if order[place] != (token if y < windows.height and x < windows.width else -1):
            return False
    return True


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
