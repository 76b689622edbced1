"""The folded student with a quantizer on every tensor that the integer network will have."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from archnet.calibration.equalization import ChannelStatistics
from archnet.calibration.lsq import ActivationQuantizer, WeightQuantizer
from archnet.calibration.observers import sample_of
from archnet.calibration.widths import (
    IMAGES,
    PASSING,
    STORED_BITS,
    WEIGHTED,
    Widths,
    assign,
    fused_reader,
    narrowed,
    unsigned_sites,
)
from archnet.config import Bits
from archnet.converters.activation import limits_of
from archnet.converters.residual import IDENTITY
from archnet.converters.softmax import RELATIVE, cap_of, window_of
from archnet.executor import NetworkModule, strides
from archnet.network import Network, Site
from archnet.operators import Op
from archnet.quantized_layers import (
    QuantizedAttention,
    QuantizedCodes,
    QuantizedConv,
    QuantizedLinear,
    QuantizedTableAdd,
    QuantizedTableMul,
)
from archnet.quantized_mixing import QuantizedTokenMix
from archnet.shared_scales import share_quantizers, sharing
from archnet.valid import mask_of, row_masks, valid_rows

LARGEST_FACTOR = 1.7
"""Of a requantization, before scales are moved to exact ones; an exact one is below 2."""

SHARE_LEVELS = "share_levels"
"""Attribute of an attention site: the target's `softmax_levels`, where they are not the usual ones."""


class QuantizedStudent(NetworkModule):
    """A folded network in the form in which it is deployed, trainable.

    Args:
        network: folded (no BatchNorm).
        bits: widths of weights and of what they are multiplied with.
        layers: other widths of single sites.
    """

    def __init__(self, network: Network, bits: Bits, layers: Mapping[str, Bits] | None = None) -> None:
        network = narrowed(network, bits, layers)
        self.widths = assign(network, bits, layers)
        overrides: dict[str, nn.Module] = {}
        observe: dict[str, nn.Module] = {}
        readers = network.consumers()
        unsigned = unsigned_sites(network)
        for site in network.sites:
            module = _override(network, site, self.widths)
            if module is not None:
                overrides[site.name] = module
            fused = fused_reader(site, readers) is not None
            exact = site.op in PASSING or bool(site.attributes.get("logits", False))
            if not fused and not exact:
                bits_of = self.widths.weights if _is_table(site) else self.widths.results
                observe[site.name] = _observer(site, bits_of[site.name], unsigned)
        share_quantizers(network, observe)
        super().__init__(network, overrides, observe, clear_padding=True)
        self.pixels = ActivationQuantizer(STORED_BITS, signed=True) if IMAGES in network.inputs else None
        for site in network.sites:
            for key in site.parameters.values():
                if site.name in overrides:
                    del self.values[key.replace(".", "|")]
                else:
                    self.values[key.replace(".", "|")].requires_grad_(False)

    def forward(self, inputs: Mapping[str, Tensor], keep: Collection[str] | None = None) -> dict[str, Tensor]:
        """Run every site, on images that are quantized first (see NetworkModule)."""
        if self.pixels is not None:
            inputs = {**inputs, IMAGES: self.pixels(inputs[IMAGES])}
        return super().forward(inputs, keep)

    def observer(self, site: str) -> ActivationQuantizer | None:
        """The quantizer of a site's result."""
        key = site.replace(".", "|")
        found = self.observe[key] if key in self.observe else None  # noqa: SIM401 - ModuleDict has no get
        return found if isinstance(found, ActivationQuantizer) else None

    def override(self, site: str) -> nn.Module:
        """The module that computes a site."""
        return self.overrides[site.replace(".", "|")]

    @torch.no_grad()
    def calibrate(self, batches: Sequence[Mapping[str, Tensor]]) -> None:
        """Set every activation step from float runs over some batches."""
        samples: dict[str, list[Tensor]] = {name: [] for name in self.observe}
        attentions = [m for m in self.overrides.values() if isinstance(m, QuantizedAttention)]
        quantizers = dict(self.observe.items())
        masks = row_masks(self.network)
        if self.pixels is not None:
            self.pixels.calibrate(torch.cat([sample_of(batch[IMAGES]) for batch in batches]))
        for attention in attentions:
            attention.calibrating = True
        for name in quantizers:
            self.observe[name] = nn.Identity()
        for batch in batches:
            values = self.forward(batch)
            for name, kept in samples.items():
                site = name.replace("|", ".")
                kept.append(sample_of(valid_rows(values[site], mask_of(batch, masks[site]))))
        for quantizer, names in sharing(quantizers):
            self.observe.update(dict.fromkeys(names, quantizer))
            assert isinstance(quantizer, ActivationQuantizer)
            quantizer.calibrate(torch.cat([sample for name in names for sample in samples[name]]))
        for attention in attentions:
            attention.calibrate(LARGEST_FACTOR)

    def trained(self, network: Network) -> dict[str, Tensor]:
        """The tensors of the network that this student was made of, with what it has learned."""
        tensors = dict(network.tensors)
        for site in network.sites:
            key = site.name.replace(".", "|")
            module = self.overrides[key] if key in self.overrides else None  # noqa: SIM401 - as above
            for role, name in site.parameters.items():
                learned = getattr(module, role, None)
                if isinstance(learned, nn.Parameter):
                    tensors[name] = learned.detach().clone()
        return tensors

    def activation_steps(self) -> dict[str, Tensor]:
        """The step of every activation quantizer, by the name of its module."""
        return self._steps(ActivationQuantizer)

    def weight_steps(self) -> dict[str, Tensor]:
        """The steps of every weight quantizer, (channels,), by the name of its module."""
        return self._steps(WeightQuantizer)

    @torch.no_grad()
    def set_steps(self, steps: Mapping[str, Tensor]) -> None:
        """Take the steps of a student of the same network with the same widths, by their modules' names."""
        modules = dict(self.named_modules())
        for name, step in steps.items():
            quantizer = modules[name]
            assert isinstance(quantizer, (ActivationQuantizer, WeightQuantizer))
            quantizer.step.copy_(step)

    def _steps(self, kind: type[ActivationQuantizer] | type[WeightQuantizer]) -> dict[str, Tensor]:
        return {n: m.step.detach().clone() for n, m in self.named_modules() if isinstance(m, kind)}

    @torch.no_grad()
    def raise_fine_steps(self) -> None:
        """Raise the steps of results that are finer than what their products can tell apart.

        Few bits make the steps of an accumulator large, and a requantization's factor stays below 2.
        """
        readers = self.network.consumers()
        for site in self.network.sites:
            if site.op in WEIGHTED and not site.attributes.get("logits", False):
                module = self.override(site.name)
                assert isinstance(module, (QuantizedLinear, QuantizedTokenMix))
                result = self.observer(site.name) or self.observer(readers[site.name][0].name)
                assert result is not None
                step = self._scale_of(site.inputs[0]) * float(module.quantizer.scale.max())
                result.step.clamp_min_(min(step / LARGEST_FACTOR, result.most))
            elif site.op is Op.MUL:
                result = self.observer(site.name)
                assert result is not None
                step = self._scale_of(site.inputs[0])
                step *= self._scale_of(site.inputs[1]) if len(site.inputs) > 1 else self._table_scale(site)
                result.step.clamp_min_(step / LARGEST_FACTOR)
            elif site.op is Op.ADD and len(site.inputs) == 2:
                result = self.observer(site.name) or self.observer(readers[site.name][0].name)
                assert result is not None
                step = max(self._scale_of(name) for name in site.inputs)
                result.step.clamp_min_(step / LARGEST_FACTOR)

    def _table_scale(self, site: Site) -> float:
        module = self.override(site.name)
        assert isinstance(module, QuantizedTableMul)
        return module.quantizer.scale

    def _scale_of(self, name: str) -> float:
        """The scale of a site's result, which some operators take from what they read."""
        if name == IMAGES and self.pixels is not None:
            return self.pixels.scale
        observer = self.observer(name)
        return self._scale_of(self.network.site(name).inputs[0]) if observer is None else observer.scale

    @torch.no_grad()
    def correct_biases(self, batch: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
        """Move every fully connected layer's bias so that its mean output is the wished one.

        Rounding shifts means, and a network without norms carries shifts along (arXiv 1906.04721,
        section 4.2, empirical). Layers are corrected in order, each on what the corrected ones before
        it give.

        Args:
            batch: inputs, with padding.
            wanted: `linear_means` of the network that this one is made of, on that batch.
        """
        masks = row_masks(self.network)
        hooks = []
        for site in self.network.sites:
            if site.op in (Op.LINEAR, Op.CONV) and not site.attributes.get(IDENTITY):
                module = self.override(site.name)
                hooks.append(
                    module.register_forward_hook(
                        _corrector(wanted[site.name], mask_of(batch, masks[site.name]))
                    )
                )
        self.forward(batch, keep=set())
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def linear_means(module: NetworkModule, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The mean of every layer's and convolution's result over the valid rows of a batch, (channels,)."""
    names = {site.name for site in module.network.sites if site.op in (Op.LINEAR, Op.CONV)}
    masks = row_masks(module.network)
    values = module(batch, keep=names)
    return {n: valid_rows(values[n].float(), mask_of(batch, masks[n])).mean(0) for n in sorted(names)}


@torch.no_grad()
def channel_statistics(
    network: Network, batches: Sequence[Mapping[str, Tensor]]
) -> dict[str, ChannelStatistics]:
    """Mean and reach of every channel of every token tensor, over the valid tokens of some batches."""
    module = NetworkModule(network, clear_padding=True)
    names = {site.name for site in network.sites}
    sums: dict[str, Tensor] = {}
    least: dict[str, Tensor] = {}
    greatest: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    masks = row_masks(network)
    for batch in batches:
        for name, value in module(batch, keep=names).items():
            if value.dim() < 3:
                continue
            rows = valid_rows(value, mask_of(batch, masks[name]))
            counts[name] = counts.get(name, 0) + len(rows)
            low, high, total = rows.amin(0), rows.amax(0), rows.sum(0)
            least[name] = torch.minimum(least[name], low) if name in least else low
            greatest[name] = torch.maximum(greatest[name], high) if name in greatest else high
            sums[name] = sums[name] + total if name in sums else total
    means = {name: total / counts[name] for name, total in sums.items()}
    return {
        name: ChannelStatistics(mean, torch.maximum(greatest[name] - mean, mean - least[name]))
        for name, mean in means.items()
    }


def _corrector(wanted: Tensor, mask: Tensor | None) -> Callable[[nn.Module, object, Tensor], Tensor]:
    def correct(module: nn.Module, inputs: object, result: Tensor) -> Tensor:
        assert isinstance(module, QuantizedLinear)
        shift = wanted - valid_rows(result.float(), mask).mean(0)
        module.bias.add_(shift)
        return result + (shift[:, None, None] if result.dim() == 4 else shift)

    return correct


def with_share_levels(network: Network, levels: int) -> Network:
    """The network with attention whose probabilities have these units (see QuantizedAttention)."""
    sites = (
        replace(site, attributes={**site.attributes, SHARE_LEVELS: levels})
        if site.op is Op.ATTENTION
        else site
        for site in network.sites
    )
    return replace(network, sites=tuple(sites))


def _is_table(site: Site) -> bool:
    """Whether the result's integers are a table's own."""
    return site.op is Op.EMBEDDING and "table" in site.parameters


def _observer(site: Site, bits: int, unsigned: Collection[str]) -> ActivationQuantizer:
    """A limit is what saturation computes, so integers must not reach beyond it."""
    signed = site.name not in unsigned
    greatest = 2 ** (bits - 1 if signed else bits) - 1
    most = limits_of(site)[1] / greatest if site.op is Op.CLIP else float("inf")
    return ActivationQuantizer(bits, signed=signed, most=most)


def _override(network: Network, site: Site, widths: Widths) -> nn.Module | None:
    if site.op is Op.LINEAR:
        weight, bias = network.parameter(site, "weight"), network.parameter(site, "bias")
        layer = QuantizedLinear(weight, bias, widths.weights[site.name], cap_of(site))
        return layer.fixed() if site.attributes.get(IDENTITY) else layer
    if site.op is Op.CONV:
        weight, bias = network.parameter(site, "weight"), network.parameter(site, "bias")
        groups = int(site.attributes["groups"])
        conv = QuantizedConv(weight, bias, widths.weights[site.name], strides(site), groups)
        return conv.fixed() if site.attributes.get(IDENTITY) else conv
    if site.op is Op.ATTENTION:
        return _attention(network, site, widths)
    if site.op is Op.TOKEN_MIX:
        return QuantizedTokenMix(
            network.parameter(site, "weight"), network.parameter(site, "bias"), widths.weights[site.name]
        )
    if site.op is Op.ADD and len(site.inputs) == 1:
        return QuantizedTableAdd(network.parameter(site, "table"), STORED_BITS)
    if site.op is Op.MUL and len(site.inputs) == 1:
        return QuantizedTableMul(network.parameter(site, "table"), STORED_BITS)
    if site.op is Op.EMBEDDING and "codes" in site.parameters:
        codes, books = network.parameter(site, "codes"), network.parameter(site, "books")
        return QuantizedCodes(codes.long(), books, widths.weights[site.name])
    return None


def _attention(network: Network, site: Site, widths: Widths) -> QuantizedAttention:
    heads, scale = int(site.attributes["heads"]), float(site.attributes["scale"])
    causal = bool(site.attributes.get("causal", False))
    if site.attributes.get("form") == "relu":
        from archnet.quantized_attention import QuantizedReluAttention

        return QuantizedReluAttention(heads, scale, widths.shares[site.name], causal=causal)
    bits = (widths.scores[site.name], widths.shares[site.name])
    levels = int(site.attributes.get(SHARE_LEVELS, 2**STORED_BITS - 1))
    log_sum = site.attributes.get("form") == "logsum"
    tables = {role: network.parameter(site, role) for role in RELATIVE if role in site.parameters}
    if tables:
        from archnet.quantized_attention import QuantizedRelativeAttention

        return QuantizedRelativeAttention(heads, bits, tables, share_levels=levels, log_sum=log_sum)
    table = network.parameter(site, "bias") if "bias" in site.parameters else None
    return QuantizedAttention(
        heads, scale, bits, table,
        causal=causal, share_levels=levels, cap=cap_of(site), window=window_of(site), log_sum=log_sum,
    )  # fmt: skip
