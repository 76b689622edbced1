"""A quantized student that learns with DoReFa's quantizers, and the plain one that it leaves."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from archnet.calibration.dorefa import DoReFaWeightQuantizer
from archnet.calibration.lsq import ActivationQuantizer
from archnet.quantized_layers import QuantizedCodes, QuantizedLinear
from archnet.quantized_mixing import QuantizedTokenMix
from archnet.quantized_student import QuantizedStudent

Weighted = QuantizedLinear | QuantizedTokenMix | QuantizedCodes


@torch.no_grad()
def use_dorefa(student: QuantizedStudent) -> None:
    """Give every trained layer DoReFa's weights, and keep the ranges of activations as they are set."""
    for module in _trained(student):
        matrix = _matrix(module)
        module.quantizer = DoReFaWeightQuantizer(matrix, module.quantizer.bits)
        matrix.copy_(module.quantizer.start(matrix))
    for part in student.modules():
        if isinstance(part, ActivationQuantizer):
            part.step.requires_grad_(False)


@torch.no_grad()
def settle_dorefa(student: QuantizedStudent) -> None:
    """Make it a student with plain quantizers that computes the same, which can be frozen."""
    for module in _trained(student):
        if isinstance(module.quantizer, DoReFaWeightQuantizer):
            matrix = _matrix(module)
            weight, module.quantizer = module.quantizer.settled(matrix)
            matrix.copy_(weight)


def _trained(student: QuantizedStudent) -> Iterator[Weighted]:
    """The modules with weights that are not fixed."""
    for module in student.overrides.values():
        if isinstance(module, Weighted) and _weights(module).requires_grad:
            yield module


def _weights(module: Weighted) -> nn.Parameter:
    return module.books if isinstance(module, QuantizedCodes) else module.weight


def _matrix(module: Weighted) -> Tensor:
    """The weights as their quantizer reads them, (channels, inputs): a view, so that it can be written to."""
    if isinstance(module, QuantizedCodes):
        return module.matrix()
    if isinstance(module, QuantizedTokenMix):
        return module.weight.flatten(0, 1)
    return module.weight.flatten(1)
