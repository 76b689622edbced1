"""Tokens in the order of windows: against PyTorch's own moves, recognised again, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from archnet.calibration.attention_balance import balance_attention
from archnet.calibration.equalization import equalize
from archnet.calibration.rotation import rotate, streams
from archnet.capture import capture_image
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.graph import Node, TensorSpec
from archnet.network import Network
from archnet.operators import Op
from archnet.plan import make_plan
from archnet.quantized_student import channel_statistics
from archnet.reference import run_node
from archnet.rewrite import materialize, rewrite, token_statistics
from archnet.targets import load_profile
from archnet.windows import Windows, every_other, windows_of
from tests.hf_models import make_model
from tests.image_graphs import CLASSES, SIZE, Kind, image_model, images


@st.composite
def windows(draw: st.DrawFn) -> Windows:
    """Any windows over a small map."""
    down, right = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    pads = draw(st.integers(0, down - 1)), draw(st.integers(0, right - 1))
    sizes = [draw(st.integers(1, 3)) * size - pad for size, pad in zip((down, right), pads, strict=True)]
    shifts = draw(st.integers(0, down - 1)), draw(st.integers(0, right - 1))
    size = [max(size, 1) for size in sizes]
    return Windows(*size, down, right, *shifts, *pads, draw(st.booleans()), draw(st.booleans()))


def moved(x: Tensor, w: Windows) -> Tensor:
    """The same with PyTorch's pad, roll and view, as Swin's own code has it; (batch, tokens, features).

    Spread windows are cut as MaxViT's own code cuts its grids.
    """
    batch, features = len(x), x.shape[-1]
    height, width = w.filled
    across, down = width // w.window_x, height // w.window_y
    order = (0, 2, 4, 1, 3, 5) if w.spread else (0, 1, 3, 2, 4, 5)
    sizes = (w.window_y, down, w.window_x, across) if w.spread else (down, w.window_y, across, w.window_x)
    if not w.inverse:
        y = F.pad(x.view(batch, w.height, w.width, features), (0, 0, 0, w.pad_x, 0, w.pad_y))
        y = torch.roll(y, (-w.shift_y, -w.shift_x), (1, 2))
        return y.view(batch, *sizes, features).permute(order).reshape(batch, -1, features)
    y = x.view(batch, down, across, w.window_y, w.window_x, features)
    y = y.permute([order.index(i) for i in range(6)])
    y = torch.roll(y.reshape(batch, height, width, features), (w.shift_y, w.shift_x), (1, 2))
    return y[:, : w.height, : w.width].reshape(batch, -1, features)


def stepped(x: NDArray[np.int8], w: Windows) -> NDArray[np.int8]:
    """What the steps of windows make, with NumPy."""
    for step in w.steps(x.shape[-1]):
        wanted = step.shape(x.shape)
        if step.kind == "reshape":
            x = x.reshape(-1, *step.sizes)
        elif step.kind == "swap":
            x = x.transpose(0, 2, 1, 3)
        elif step.kind == "roll":
            x = np.roll(x, -step.count, step.axis)
        elif step.kind == "pad":
            x = np.pad(x, [(0, step.count if axis == step.axis else 0) for axis in range(4)])
        else:
            x = x.take(range(step.count), step.axis)
        assert len(wanted) <= 4
        assert list(x.shape) == wanted
    return x


@given(windows())
def test_the_operator_and_its_steps_are_pytorchs_moves(w: Windows) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (2, w.tokens[0], 3), dtype=np.int8)
    wanted = moved(torch.from_numpy(x), w).numpy()
    output = TensorSpec("y", ("batch", w.tokens[1], 3), "int8", 8, 1.0)
    np.testing.assert_array_equal(
        run_node(Node(Op.WINDOWS, "n", (), "y", w.attributes()), [x], output, {}), wanted
    )
    np.testing.assert_array_equal(stepped(x, w), wanted)


@settings(deadline=None)
@given(windows())
def test_windows_are_recognised_by_their_order(w: Windows) -> None:
    found = windows_of(w.order(), w.tokens[0])
    assert found is not None
    np.testing.assert_array_equal(found.order(), w.order())


@given(*(st.integers(1, 9) for _ in range(2)), *(st.integers(1, 4) for _ in range(2)))
def test_every_other_place_is_recognised(height: int, width: int, down: int, right: int) -> None:
    order = np.arange(height * width).reshape(height, width)[::down, ::right].ravel()
    found = every_other(order, height * width)
    if found is None:
        assert len(order) in (1, height * width)
        return
    (high, wide), (below, across) = found
    np.testing.assert_array_equal(
        np.arange(high * wide).reshape(high, wide)[::below, ::across].ravel(), order
    )


@pytest.mark.parametrize("order", [[0, 2, 3], [1, 3], [0, 0, 2], [0, 3, 6, 1]])
def test_other_choices_are_not_every_other_place(order: list[int]) -> None:
    assert every_other(np.asarray(order), 8) is None


def test_other_orders_are_not_windows() -> None:
    order = np.arange(16)
    order[[3, 7]] = order[[7, 3]]
    assert windows_of(order, 16) is None
    assert windows_of(np.full(16, -1), 16) is None


@cache
def captured(kind: Kind) -> Network:
    """The captured network of a tiny model."""
    return capture_image(image_model(kind), SIZE).network


class OwnBlock(nn.Module):
    """A block as Swin's own code and timm have it: packed operands, windows apart where masks are added."""

    def __init__(self, shift: int) -> None:
        super().__init__()
        self.norm, self.shift = nn.LayerNorm(16), shift
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.bias = nn.Parameter(torch.randn(2, 16, 16))
        region = torch.arange(8)[None, :, None, None] // 4 + torch.arange(8)[None, None, :, None] // 4 * 2
        apart = self.partition(torch.roll(region, (-shift, -shift), (1, 2)))[..., 0]
        self.register_buffer("mask", torch.where(apart[:, None] == apart[:, :, None], 0.0, -100.0))

    def partition(self, x: Tensor) -> Tensor:
        y = x.view(x.shape[0], 2, 4, 2, 4, x.shape[3]).permute(0, 1, 3, 2, 4, 5)
        return y.contiguous().view(-1, 16, x.shape[3])

    def forward(self, x: Tensor) -> Tensor:
        y = torch.roll(self.norm(x).view(x.shape[0], 8, 8, 16), (-self.shift, -self.shift), (1, 2))
        y = self.partition(y)
        q, k, v = self.qkv(y).reshape(y.shape[0], 16, 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        scores = (q * 8**-0.5) @ k.transpose(-2, -1) + self.bias.unsqueeze(0)
        scores = scores.view(y.shape[0] // 4, 4, 2, 16, 16) + self.mask.unsqueeze(1).unsqueeze(0)
        y = (scores.view(-1, 2, 16, 16).softmax(-1) @ v).transpose(1, 2).reshape(y.shape[0], 16, 16)
        y = self.proj(y).view(-1, 2, 2, 4, 4, 16).permute(0, 1, 3, 2, 4, 5).contiguous()
        y = torch.roll(y.view(-1, 8, 8, 16), (self.shift, self.shift), (1, 2))
        return x + y.view(x.shape)


def test_windows_are_captured_however_they_are_written() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.blocks = nn.Conv2d(3, 16, 2, 2), nn.Sequential(OwnBlock(0), OwnBlock(2))

        def forward(self, pixel_values: Tensor) -> Tensor:
            y: Tensor = self.blocks(self.stem(pixel_values).flatten(2).transpose(1, 2)).mean(1)
            return y

    torch.manual_seed(0)
    found = capture_image(Own().eval(), SIZE)
    assert found.unknown == ()
    assert found.error < 1e-5
    assert [site.attributes["window"] for site in found.network.sites if site.op is Op.ATTENTION] == [16, 16]


MAKERS: dict[str, Callable[[], nn.Module]] = {
    "whole windows": lambda: image_model("swin"),
    "maps that no windows fill": lambda: image_model("swin_padded"),
    "eager": lambda: with_eager_attention(image_model("swin")),
    "positions": lambda: make_model("swin", labels=CLASSES, hidden=16, use_absolute_embeddings=True),
    "cosines": lambda: image_model("swinv2"),
    "cosines over maps that no windows fill": lambda: make_model(
        "swinv2", labels=CLASSES, hidden=16, window_size=3
    ),
    "an odd number to merge": lambda: make_model("swin", labels=CLASSES, hidden=16, image_size=14),
    "spread over maps": lambda: make_model("mobilevit", labels=CLASSES),
    "every other place": lambda: make_model("levit", labels=CLASSES),
}


def with_eager_attention(model: nn.Module) -> nn.Module:
    model.set_attn_implementation("eager")  # type: ignore[operator]
    return model


@pytest.mark.parametrize("name", MAKERS)
def test_captured_windows_equal_the_original(name: str) -> None:
    model = MAKERS[name]()
    size = (3, model.config.image_size, model.config.image_size)  # type: ignore[union-attr]
    found = capture_image(model, size)  # type: ignore[arg-type]
    assert found.unknown == ()
    batch = {"pixel_values": torch.randn(3, *size, generator=torch.Generator().manual_seed(5))}  # type: ignore[arg-type]
    with torch.no_grad():
        got = NetworkModule(found.network)(batch)[found.network.outputs["logits"]]
        torch.testing.assert_close(got, model(**batch)["logits"], rtol=1e-4, atol=1e-4)


def test_what_is_captured_of_swin() -> None:
    network = captured("swin")
    found = [Windows.of(site.attributes) for site in network.sites if site.op is Op.WINDOWS]
    plain, shifted = Windows(8, 8, 4, 4), Windows(8, 8, 4, 4, 2, 2)
    # The second stage's map is one window, whose tokens stay where they are.
    pairs = [windows for one in (plain, shifted) for windows in (one, replace(one, inverse=True))]
    assert found == [*pairs, Windows(8, 8, 2, 1)]
    attentions = [site for site in network.sites if site.op is Op.ATTENTION]
    assert [site.attributes.get("window") for site in attentions] == [16, 16, None]
    shapes = [tuple(network.parameter(site, "bias").shape) for site in attentions]
    assert shapes == [(2, 16, 16), (2 * 4, 16, 16), (4, 16, 16)]
    (joined,) = (site for site in network.sites if site.op is Op.RESHAPE)
    assert joined.attributes == {"beside": 4}


class Mixed(nn.Module):
    """Patches in some order, and attention within windows of 4 of them, something added to its scores."""

    def __init__(
        self, order: Callable[[Tensor], Tensor], bias: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 4, stride=4), nn.Linear(4, 4)
        self.order, self.bias = order, bias

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.order(self.stem(pixel_values).flatten(2).transpose(1, 2))
        y: Tensor = self.layer(x)
        if self.bias is not None:
            heads = y.view(y.shape[0], -1, 2, 2).transpose(1, 2)
            y = F.scaled_dot_product_attention(heads, heads, heads, self.bias(pixel_values))
            y = y.transpose(1, 2).reshape(x.shape)
        return y.reshape(pixel_values.shape[0], 16, 4).mean(1)


def in_fours(x: Tensor) -> Tensor:
    return x.view(-1, 2, 2, 2, 2, 4).transpose(2, 3).reshape(-1, 4, 4)


REFUSED: dict[str, tuple[nn.Module, str]] = {
    "features": (
        Mixed(lambda x: x.reshape(-1, 4, 16).transpose(1, 2).reshape(-1, 16, 4)),
        "that no operator takes",
    ),
    "order": (
        Mixed(lambda x: x[:, [0, 1, 2, 7, 4, 5, 6, 3, 8, 9, 10, 11, 12, 13, 14, 15]]),
        "tokens of an image in an order that is not that of windows",
    ),
    "pictures": (Mixed(lambda x: x.flip(0)), "that no operator takes"),
    "mask": (
        Mixed(in_fours, lambda p: torch.arange(p.shape[0] * 64.0).view(-1, 1, 4, 4)),
        "its attention mask depends on the image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_orders_and_masks_are_refused(name: str) -> None:
    module, reason = REFUSED[name]
    found = capture_image(module.eval(), SIZE)
    assert any(reason in str(site.attributes["reason"]) for site in found.unknown)


def test_a_mask_alike_for_all_pictures_is_a_bias_of_each_window() -> None:
    hidden = torch.zeros(4, 1, 4, 4)
    hidden[2, :, :, 1] = -100.0
    module = Mixed(in_fours, lambda p: hidden.repeat(p.shape[0], 1, 1, 1)).eval()
    network = capture_image(module, SIZE).network
    (site,) = (site for site in network.sites if site.op is Op.ATTENTION)
    bias = network.parameter(site, "bias").unflatten(0, (2, 4))
    assert bool((bias[:, 2, :, 1] == -60.0).all())
    assert float(bias.abs().sum()) == 60.0 * 2 * 4


def folded(kind: Kind) -> tuple[Network, NetworkModule, Folded]:
    """A teacher, its student at the end of the homotopy, and that folded."""
    network = captured(kind)
    statistics = token_statistics(NetworkModule(network), [images(8, seed) for seed in range(2)])
    rewritten = rewrite(network, {**statistics})
    student = rewritten.module()
    set_progress(student, 1.0)
    return network, student, fold(materialize(rewritten.network, rewritten.modules, student.tensors()))


@pytest.mark.parametrize(
    "kind", ["swin", "swin_padded", "swinv2", "pvt_v2", "segformer", "convnext", "dinov3", "mobilevit"]
)
def test_folding_and_evening_out_change_nothing(kind: Kind) -> None:
    network, student, made = folded(kind)
    batch = images(3, seed=5)
    statistics = channel_statistics(made.network, [images(8, seed) for seed in range(2)])
    balanced = balance_attention(made, statistics)
    evened = equalize(balanced, statistics, outputs=network.outputs.values())
    with torch.no_grad():
        wanted = student(batch)[network.outputs["logits"]]
        for form in (made, balanced, evened, rotate(evened)):
            affine = form.values[network.outputs["logits"]]
            got = affine.apply(NetworkModule(form.network)(batch)[affine.carrier])
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-3)


def test_streams_that_end_in_merging_are_rotated() -> None:
    _, _, made = folded("swin")
    ops = [{made.network.site(name).op for name in stream} for stream in streams(made.network)]
    assert sum(Op.WINDOWS in found and Op.ADD in found for found in ops) == 1


@pytest.mark.parametrize(("target", "reason"), [
    ("k230", "it stays within windows of an image, which relu does not take"),
    ("archnet5", "it stays within windows of an image, which mixing does not take"),
    ("rockchip", "the profile of rockchip does not list Windows"),
    ("qualcomm-htp", "the profile of qualcomm-htp does not list Windows"),
])  # fmt: skip
def test_targets_without_windows_refuse_them_before_any_training(target: str, reason: str) -> None:
    profile = load_profile(target)
    network = captured("swin")
    plan = make_plan(network, profile, model="swin", embedding="host", attention=profile.attention_forms[0])
    assert any(reason in refused.reason for refused in plan.refusals)
