"""Tiny image networks with random weights, taken through capture, folding, quantization and freezing."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.blocks import find_blocks, with_blocks
from archnet.calibration.affine import fit_weight_scale
from archnet.calibration.equalization import equalize
from archnet.capture import capture_image
from archnet.config import Bits
from archnet.converters.fold import Folded, fold
from archnet.converters.homotopy import set_progress
from archnet.executor import NetworkModule
from archnet.freeze import freeze
from archnet.graph import GraphOutput, Node, QuantizedGraph, TensorSpec
from archnet.graph_check import validate_graph
from archnet.network import Network
from archnet.operators import Op
from archnet.quantized_student import QuantizedStudent, channel_statistics
from archnet.rewrite import materialize, rewrite, token_statistics
from tests.hf_models import make_model

SIZE = (3, 16, 16)
CLASSES = 5

Kind = Literal[
    "vit", "dinov2", "beit", "swin", "swin_padded", "swinv2", "pvt_v2", "segformer", "convnext",
    "dinov3", "mobilevit", "cnn", "mobile",
]  # fmt: skip


class SmallCnn(nn.Module):
    """Every form of convolution and pooling that is known, and a residual Add with a ReLU behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.left, self.left_norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.single = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(8, 12, 1, groups=2)
        self.average = nn.AvgPool2d(2)
        self.lone_norm = nn.BatchNorm2d(12)
        self.head = nn.Linear(12, CLASSES)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """float32 (batch, 3, height, width) -> {"logits": (batch, CLASSES)}."""
        x = self.pool(torch.relu(self.norm(self.stem(pixel_values))))
        x = torch.relu(self.left_norm(self.left(x)) + x)
        x = self.average(torch.relu(self.single(x)))
        x = self.lone_norm(torch.relu(self.grouped(x)))
        return {"logits": self.head(x.mean((2, 3)))}


class SmallMobile(nn.Module):
    """An inverted residual as MobileNet's: ReLU6, each channel by itself, zeros at one end of a map only."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8)
        self.up, self.up_norm = nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16)
        self.each, self.each_norm = nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.BatchNorm2d(16)
        self.down = nn.Conv2d(16, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """float32 (batch, 3, height, width) -> {"logits": (batch, CLASSES)}."""
        x = F.relu6(self.stem_norm(self.stem(F.pad(pixel_values, (0, 1, 0, 1)))))
        y = F.hardtanh(self.up_norm(self.up(x)), -2.0, 2.0)
        y = F.relu6(self.each_norm(self.each(F.pad(y, (1, 1, 2, 0)))))
        return {"logits": self.head(F.adaptive_avg_pool2d(x + self.down(y), 1).flatten(1))}


class SmallMobileVit(nn.Module):
    """A layer of MobileViT's: a convolution, attention among every other pixel, two maps side by side."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import MobileViTConfig
        from transformers.models.mobilevit.modeling_mobilevit import MobileViTLayer

        config = MobileViTConfig(num_attention_heads=2, mlp_ratio=2.0, hidden_act="silu")
        self.stem, self.norm = nn.Conv2d(3, 16, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(16)
        self.layer = MobileViTLayer(config, 16, 16, stride=1, hidden_size=16, num_stages=2)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """float32 (batch, 3, height, width) -> {"logits": (batch, CLASSES)}."""
        x = self.layer(F.silu(self.norm(self.stem(pixel_values))))
        return {"logits": self.head(x.mean((2, 3)))}


class Headed(nn.Module):
    """A backbone with a layer that scores classes by its pooled output."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(32, CLASSES)

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """float32 (batch, 3, height, width) -> {"logits": (batch, CLASSES)}."""
        return {"logits": self.head(self.backbone(pixel_values=pixel_values).pooler_output)}


def image_model(kind: Kind) -> nn.Module:
    """The float model in eval mode, the same each time."""
    if kind == "swin_padded":  # 8 x 8 patches, then 4 x 4, in windows of 3 x 3
        return make_model("swin", labels=CLASSES, hidden=16, window_size=3)
    if kind in ("swin", "swinv2"):
        return make_model(kind, labels=CLASSES, hidden=16)
    own: dict[str, Callable[[], nn.Module]] = {
        "cnn": SmallCnn, "mobile": SmallMobile, "mobilevit": SmallMobileVit,
        "dinov3": lambda: Headed(make_model("dinov3_vit")),
    }  # fmt: skip
    if kind not in own:
        return make_model(kind, labels=CLASSES)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(0)
        model = own[kind]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.3)
                nn.init.uniform_(module.running_var, 0.5, 2.0)
                nn.init.normal_(module.weight, 6.0 if kind == "mobile" else 1.0, 0.2)  # beyond ReLU6's limit
    finally:
        torch.set_rng_state(state)
    return model.eval()


def images(count: int, seed: int = 0) -> dict[str, Tensor]:
    """Random pixel_values."""
    generator = torch.Generator().manual_seed(seed)
    return {"pixel_values": torch.randn(count, *SIZE, generator=generator)}


@cache
def captured_model(kind: Kind) -> Network:
    """The captured teacher, with its blocks."""
    network = capture_image(image_model(kind), SIZE).network
    return with_blocks(network, find_blocks(network))


@cache
def folded_model(kind: Kind, attention: str = "softmax") -> tuple[Network, Folded]:
    """The captured teacher, and its student without norms at the end of the homotopy, equalized."""
    network = captured_model(kind)
    batches = [images(8, seed) for seed in range(2)]
    statistics = token_statistics(NetworkModule(network), batches)
    rewritten = rewrite(network, {**statistics}, attention=attention)
    student = rewritten.module()
    set_progress(student, 1.0)
    folded = fold(materialize(rewritten.network, rewritten.modules, student.tensors()))
    channels = channel_statistics(folded.network, batches)
    return network, equalize(folded, channels, outputs=network.outputs.values())


def quantized_model(
    kind: Kind, bits: Bits, attention: str = "softmax"
) -> tuple[Network, Folded, QuantizedStudent]:
    """The same with calibrated quantizers."""
    network, folded = folded_model(kind, attention)
    student = QuantizedStudent(folded.network, bits)
    student.calibrate([images(8, seed) for seed in range(2)])
    student.raise_fine_steps()
    return network, folded, student


@cache
def image_graph(kind: Kind, bits: Bits, attention: str = "softmax") -> QuantizedGraph:
    """The integer network."""
    network, folded, student = quantized_model(kind, bits, attention)
    outputs = {name: folded.values[site] for name, site in network.outputs.items()}
    return freeze(student, outputs, name=kind, max_sequence=64, embedding="gather", size=SIZE)


def average_graph(size: int, window: int, stride: int) -> QuantizedGraph:
    """Averages over windows of a map of 6 channels, size x size pixels, as a CNN has before its head."""
    channels, scale = 6, 0.05
    multiplier, weight_scale = fit_weight_scale(np.full(channels, 1 / window**2), scale, scale)
    after = (size - window) // stride + 1
    x = TensorSpec("x", ("batch", channels, size, size), "uint8", 8, scale)
    y = TensorSpec("y", ("batch", channels, after, after), "uint8", 8, scale)
    constants = {
        "weight": np.ones((channels, 1, window, window), np.int8), "bias": np.zeros(channels, np.int32),
        "multiplier": multiplier, "weight_scale": weight_scale,
    }  # fmt: skip
    node = Node(
        Op.CONV, "average", ("x", *constants), "y",
        {"weight_bits": 2, "strides": (stride, stride), "pads": (0, 0, 0, 0), "groups": channels},
    )  # fmt: skip
    output = GraphOutput("y", "y", np.ones(1, np.float32), integers=True)
    graph = QuantizedGraph("average", (x,), (output,), (node,), {"x": x, "y": y}, constants, 1)
    validate_graph(graph)
    return graph


AVERAGES = {"whole-map": (8, 8, 8), "windows": (8, 4, 4), "uneven": (9, 4, 4), "overlapping": (7, 3, 2)}
"""Map, window and step, such that some steps are too great for a depthwise convolution on Ethos-U55."""
