"""Captured image networks against the originals, their blocks, and the texts of refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.blocks import find_blocks
from archnet.capture import capture_image
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.operators import Op
from tests.hf_models import make_model, make_resnet
from tests.image_graphs import SIZE, image_model, images

MAKERS: dict[str, Callable[[], nn.Module]] = {
    "vit": lambda: image_model("vit"),
    "deit": lambda: make_model("deit", labels=5),
    "beit": lambda: make_model("beit", labels=5),  # LayerScale, biases of positions, the mean of its patches
    "dinov2": lambda: image_model("dinov2"),  # LayerScale, class token and mean side by side
    "registers": lambda: make_model(
        "dinov2_with_registers", labels=5
    ),  # tokens between the class's and the rest
    "dinov3": lambda: image_model("dinov3"),  # rotary positions of its patches, not of other tokens
    "ijepa": lambda: make_model("ijepa", labels=5),  # the mean of all tokens
    "pvt_v2": lambda: image_model("pvt_v2"),  # maps between tokens: fewer keys, convolutions in layers
    "segformer": lambda: image_model("segformer"),
    "convnext": lambda: image_model("convnext"),  # pixels as tokens between maps
    "mobilenet_v2": lambda: make_model("mobilenet_v2", labels=5),  # ReLU6, zeros at one end of a map
    "mobilevit": lambda: image_model("mobilevit"),  # attention among every other pixel, maps side by side
    "cnn": lambda: image_model("cnn"),
    "mobile": lambda: image_model("mobile"),
    "resnet": make_resnet,
    "bottleneck": lambda: make_resnet(layer_type="bottleneck", hidden_sizes=[16, 32]),
}


@pytest.mark.parametrize("name", MAKERS)
def test_captured_network_equals_the_original(name: str) -> None:
    model = MAKERS[name]()
    found = capture_image(model, SIZE)
    assert found.unknown == ()
    batch = images(3, seed=5)
    with torch.no_grad():
        wanted = model(**batch)["logits"]
        got = NetworkModule(found.network)(batch)[found.network.outputs["logits"]]
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)


def test_registers_are_constant_tokens_in_front_and_the_class_token_is_read() -> None:
    model = make_model("dinov2_with_registers", labels=5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "token" in name:
                parameter.normal_()  # they begin as zeros
    found = capture_image(model, SIZE)
    (front,) = [site for site in found.network.sites if site.op is Op.PREPEND]
    assert front.attributes["rows"] == 1 + model.config.num_register_tokens
    assert sum("table" in site.parameters for site in found.network.sites) == 1
    batch = images(2, seed=5)
    with torch.no_grad():
        got = NetworkModule(found.network)(batch)[found.network.outputs["logits"]]
        torch.testing.assert_close(got, model(**batch)["logits"], rtol=1e-4, atol=1e-4)


class Inserted(nn.Module):
    """A token between tokens that are read besides, or that begin with patches."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.stem, self.first = nn.Conv2d(3, 4, 4, stride=4), nn.Parameter(torch.randn(1, 1, 4))

    def forward(self, pixel_values: Tensor) -> Tensor:
        x = self.stem(pixel_values).flatten(2).transpose(1, 2)
        if self.kind == "besides":
            x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        y = torch.cat([x[:, :1], self.first.expand(x.shape[0], -1, -1), x[:, 1:]], 1)[:, 0]
        return y + x[:, 0] if self.kind == "besides" else y


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("besides", "between others that are read besides"), ("patches", "that do not begin with as many")],
)
def test_tokens_that_cannot_be_put_between_others_are_refused(kind: str, reason: str) -> None:
    found = capture_image(Inserted(kind).eval(), SIZE)
    assert any(reason in str(site.attributes["reason"]) for site in found.unknown)


def test_batch_norm_folds_into_its_convolution_or_becomes_one() -> None:
    network = capture_image(image_model("cnn"), SIZE).network
    assert Op.BATCH_NORM not in {site.op for site in network.sites}
    assert network.site("lone_norm").op is Op.CONV
    assert network.site("lone_norm").attributes["groups"] == 12


def test_blocks_end_with_residual_sums() -> None:
    network = capture_image(make_resnet(), SIZE).network
    blocks = find_blocks(network)
    assert [block.name for block in blocks] == ["head", "block 0", "block 1", "block 2", "tail"]
    assert {network.site(block.output).op for block in blocks[1:-1]} == {Op.RELU}
    vit = find_blocks(capture_image(image_model("vit"), SIZE).network)
    assert [block.name for block in vit] == ["head", "block 0", "block 1", "tail"]


class One(nn.Module):
    """A convolution, then some module."""

    def __init__(self, after: nn.Module | Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.after = nn.Conv2d(3, 4, 3), after

    def forward(self, pixel_values: Tensor) -> Tensor:
        y: Tensor = self.after(self.stem(pixel_values)).flatten(1)
        return y


@pytest.mark.parametrize(
    ("module", "moves"),
    [
        pytest.param(lambda x: x.permute(0, 1, 3, 2), 1, id="axes"),
        pytest.param(lambda x: x.roll(3, 2), 1, id="rolled"),
        pytest.param(lambda x: torch.cat([x, x.transpose(2, 3), F.relu(x)], 1), 1, id="side by side"),
        pytest.param(lambda x: x.permute(0, 1, 3, 2).permute(0, 1, 3, 2), 0, id="there and back"),
    ],
)
def test_maps_are_moved_and_put_side_by_side(module: Callable[[Tensor], Tensor], moves: int) -> None:
    model = One(module).eval()
    network = capture_image(model, SIZE).network
    ops = [site.op for site in network.sites]
    assert ops.count(Op.WINDOWS) == moves
    batch = images(2, seed=5)
    with torch.no_grad():
        got = NetworkModule(network)(batch)[network.outputs["output"]]
        torch.testing.assert_close(got, model(**batch), rtol=1e-5, atol=1e-5)


def test_pixels_in_rows_are_tokens() -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = nn.Conv2d(3, 4, 3), nn.LayerNorm(4)

        def forward(self, pixel_values: Tensor) -> Tensor:
            y: Tensor = self.norm(self.stem(pixel_values).permute(0, 2, 3, 1)).flatten(1, 2).mean(1)
            return y

    found = capture_image(Pixels().eval(), SIZE)
    ops = [site.op for site in found.network.sites]
    assert ops == [Op.CONV, Op.TO_TOKENS, Op.LAYER_NORM, Op.TOKEN_MEAN]
    assert found.error < 1e-5


REFUSED: dict[str, tuple[Any, str]] = {
    "dilation": (nn.Conv2d(4, 4, 3, dilation=2), "a convolution with dilation"),
    "transposed": (nn.ConvTranspose2d(4, 4, 3), "no converter knows this operator"),
    "same": (nn.Conv2d(4, 4, 3, padding="same"), "a convolution with padding 'same'; give it in pixels"),
    "ceil": (nn.MaxPool2d(3, ceil_mode=True), "rounds its size up"),
    "padding": (nn.AvgPool2d(2, padding=1, count_include_pad=False), "does not count its padding"),
    "shuffle": (nn.PixelShuffle(2), "no converter knows this operator"),
    "mirrored": (nn.ReflectionPad2d(1), "a map with something else than zeros around it"),
    "filled": (nn.ConstantPad2d(1, 0.5), "a map with something else than zeros around it"),
    "turned": (lambda x: x.permute(0, 2, 1, 3), "features in an order that no operator takes"),
    "mirrored pixels": (lambda x: x.flip(3), "features in an order that no operator takes"),
    "one of them mirrored": (
        lambda x: torch.cat([x, x.flip(3)], 1),
        "features in an order that no operator takes",
    ),
    "rows": (lambda x: x.mean(3), "a mean that is no mean over the valid tokens or over a whole map"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_unknown_operators_are_named_with_a_reason(name: str) -> None:
    module, reason = REFUSED[name]
    found = capture_image(One(module).eval(), SIZE)
    assert any(reason in str(site.attributes["reason"]) for site in found.unknown)


def test_a_model_without_a_known_output_is_refused() -> None:
    class Constant(nn.Module):
        def forward(self, pixel_values: Tensor) -> Tensor:
            return torch.ones(3)

    with pytest.raises(ArchNetError, match="no output of the model depends on its pixels"):
        capture_image(Constant(), SIZE)


class Frames(nn.Module):
    """A token a frame: what is read has a frame's bins as channels, as keyword spotting has them."""

    def __init__(self, mean: bool, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.mean, self.batch_first = mean, batch_first
        self.project = nn.Linear(6, 16)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 6, 1, frames) -> (batch, 16)."""
        frames = pixel_values[:, :, 0]
        x = self.project(frames.permute(0, 2, 1) if self.batch_first else frames.permute(2, 0, 1))
        x = self.encoder(x)
        first = x.mean(1) if self.mean else x[:, 0]
        return first if self.batch_first else x[0]


@pytest.mark.parametrize(("mean", "batch_first"), [(True, True), (False, True), (False, False)])
def test_frames_of_bins_become_tokens(*, mean: bool, batch_first: bool) -> None:
    model = Frames(mean, batch_first).eval()
    found = capture_image(model, (6, 1, 9))
    assert found.unknown == ()
    assert found.network.sites[0].op is Op.TO_TOKENS
    values = torch.randn(3, 6, 1, 9)
    with torch.no_grad():
        got = NetworkModule(found.network)({"pixel_values": values})[found.network.outputs["output"]]
        torch.testing.assert_close(got, model(values), rtol=1e-4, atol=1e-4)


class Counted(Frames):
    """Makes a constant of the batch's size."""

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 6, 1, frames) -> (batch, 16)."""
        x = self.project(pixel_values[:, :, 0].permute(0, 2, 1))
        first = torch.zeros(1, 1, 16).expand(len(x), -1, -1)
        y: Tensor = self.encoder(torch.cat([first, x], 1))[:, 0]
        return y


def test_a_model_for_one_size_of_batches_is_refused() -> None:
    with pytest.raises(ArchNetError, match="takes batches of one size only") as raised:
        capture_image(Counted(mean=True, batch_first=True).eval(), (6, 1, 9))
    assert "x.shape[0]" in raised.value.fix


class Turned(nn.Module):
    """Turns what it reads before a convolution; twice is not at all."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times, self.conv = times, nn.Conv2d(1, 4, 3)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(batch, 1, height, width) -> (batch, features)."""
        x = pixel_values[:, 0]
        for _ in range(self.times):
            x = x.transpose(1, 2)
        y: Tensor = self.conv(x.unsqueeze(1)).relu().mean((2, 3))
        return y


def test_what_is_read_goes_into_a_convolution_when_it_stands_where_it_was() -> None:
    found = capture_image(Turned(2).eval(), (1, 8, 6))
    assert found.unknown == ()
    assert found.network.sites[0].op is Op.CONV
    assert found.network.sites[0].inputs == ("pixel_values",)
    turned = capture_image(Turned(1).eval(), (1, 8, 6))
    assert turned.unknown == ()
    assert Op.CONV in {site.op for site in turned.network.sites[1:]}
