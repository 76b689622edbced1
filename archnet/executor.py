"""Runs a Network with PyTorch: the teacher, the student and the folded student alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from archnet.converters.activation import interpolated, limits_of
from archnet.converters.attention import mix_tokens
from archnet.converters.softmax import (
    bounded,
    cap_of,
    hides,
    later_keys,
    of_windows,
    relu_weights,
    seen_keys,
    window_of,
)
from archnet.network import Network, Site, grouped, groups_of
from archnet.operators import Op
from archnet.valid import row_masks
from archnet.windows import Windows

MASKED = -30000.0
"""Added to the scores of padded keys; representable in bfloat16 and float16."""


class NetworkModule(nn.Module):
    """A Network whose tensors are parameters; sites can be overridden by modules of their own.

    Args:
        network: what to run.
        overrides: site name -> module called with the site's inputs instead of the plain operator.
        observe: site name -> module applied to the site's result (fake quantization).
        clear_padding: set the stream to 0 at every block's end where tokens are padding. Norms keep such
            rows small, static ones do not: what no loss sees grows by powers from layer to layer, through
            products of two activations, until it is infinite, and 0 times that is no gradient.
    """

    def __init__(
        self,
        network: Network,
        overrides: Mapping[str, nn.Module] | None = None,
        observe: Mapping[str, nn.Module] | None = None,
        *,
        clear_padding: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self._cleared = _block_ends(network) if clear_padding else {}
        fixed = _constants(network)
        self.values = nn.ParameterDict(
            {
                _key(k): nn.Parameter(v.clone(), requires_grad=v.is_floating_point() and k not in fixed)
                for k, v in network.tensors.items()
            }
        )
        self.overrides = nn.ModuleDict({_key(k): v for k, v in (overrides or {}).items()})
        self.observe = nn.ModuleDict({_key(k): v for k, v in (observe or {}).items()})
        self._place = {site.name: i for i, site in enumerate(network.sites)}
        last = {name: i for i, site in enumerate(network.sites) for name in site.inputs}
        self._last_read: dict[int, list[str]] = {}
        for name, i in last.items():
            self._last_read.setdefault(i, []).append(name)

    def parameter(self, site: Site, role: str) -> Tensor:
        """The (trainable) tensor that plays this role at the site."""
        value: Tensor = self.values[_key(site.parameters[role])]
        return value

    def forward(self, inputs: Mapping[str, Tensor], keep: Collection[str] | None = None) -> dict[str, Tensor]:
        """Run every site.

        Args:
            inputs: "input_ids" and "attention_mask", int64 (batch, sequence), or "pixel_values", float32.
            keep: sites whose values are wanted; all by default. Others are freed after their last use, and
                those behind the last wanted one do not run. An empty set runs every site.

        Returns:
            The values by site (normalised outputs are not normalised here).
        """
        values: dict[str, Tensor] = dict(inputs)
        end = 1 + max(self._place.get(name, -1) for name in keep) if keep else len(self.network.sites)
        for index, site in enumerate(self.network.sites[:end]):
            arguments = [values[name] for name in site.inputs]
            key = _key(site.name)
            if key in self.overrides:
                result = self.overrides[key](*arguments)
            else:
                result = OPERATORS[site.op](self, site, *arguments)
            if key in self.observe:
                result = self.observe[key](result)
            if site.name in self._cleared:
                padding = inputs[self._cleared[site.name]] == 0
                result = result.masked_fill(padding[:, :, None], 0.0)
            values[site.name] = result
            if keep is not None:
                for name in self._last_read.get(index, ()):
                    if name not in keep:
                        del values[name]
        return values if keep is None else {name: values[name] for name in keep}

    def tensors(self) -> dict[str, Tensor]:
        """Current values of the network's tensors by their own keys."""
        return {k: self.values[_key(k)].detach() for k in self.network.tensors}


def _block_ends(network: Network) -> dict[str, str]:
    """The last sum of two activations of every block that has padding, and the mask that says where it is."""
    masks = row_masks(network)
    sums = (site for site in network.sites if site.op is Op.ADD and len(site.inputs) == 2)
    found = {site.block: (site.name, mask) for site in sums if (mask := masks[site.name]) is not None}
    return dict(found.values())


def _constants(network: Network) -> set[str]:
    """Tensors that no training may change: tables of rotary positions, and biases that hide keys."""
    tables = {s.parameters["table"] for s in network.sites if s.op is Op.MUL and "table" in s.parameters}
    biases = [s.parameters["bias"] for s in network.sites if s.op is Op.ATTENTION and "bias" in s.parameters]
    return tables | {key for key in biases if hides(network.tensors[key])}


def _key(name: str) -> str:
    """Module containers do not allow dots in names."""
    return name.replace(".", "|")


def attention_scores(module: NetworkModule, site: Site, query: Tensor, key: Tensor) -> Tensor:
    """Scaled (and bounded) products of queries and keys plus the bias, (batch, heads, queries, keys).

    With tables of distances they are added before the products are scaled (see `relative_products`). In
    causal attention the keys behind a query's own place are hidden. In windows a head's scores within each
    stand in place of the head's (see `split_heads`).
    """
    heads = int(site.attributes["heads"])
    query, key = (split_heads(x, heads, window_of(site)) for x in (query, key))
    products = query @ key.transpose(-1, -2)
    if "relative_keys" in site.parameters:
        products = products + relative_products(query, module.parameter(site, "relative_keys"))
    if "relative_queries" in site.parameters:
        own = relative_products(key, module.parameter(site, "relative_queries"))
        products = products + own.transpose(-1, -2)
    scores = bounded(products * float(site.attributes["scale"]), cap_of(site))
    if "bias" in site.parameters:
        length = scores.shape[-1]
        bias = of_windows(module.parameter(site, "bias"), scores.shape[1])
        scores = scores + bias[:, :length, :length]
    if site.attributes.get("causal", False):
        scores = scores + later_keys(scores.shape[-1], scores.device) * MASKED
    return scores


def relative_products(x: Tensor, table: Tensor) -> Tensor:
    """Every token times a constant of each other token's distance (arXiv 2006.03654, eq. 4).

    Args:
        x: queries or keys, (batch, heads, tokens, width).
        table: (heads, 2 * positions - 1, width); row positions - 1 + d belongs to what stands d places
            behind the token itself.

    Returns:
        (batch, heads, tokens, others), with [.., i, j] = x[.., i, :] @ table[:, positions - 1 + j - i, :].
    """
    tokens, positions = x.shape[-2], (table.shape[-2] + 1) // 2
    rows = table[:, positions - tokens : positions + tokens - 1].to(x.dtype)
    place = torch.arange(tokens, device=x.device)
    distance = (place[None, :] - place[:, None] + tokens - 1).expand(*x.shape[:2], -1, -1)
    return (x @ rows.transpose(-1, -2)).gather(-1, distance)


def split_heads(x: Tensor, heads: int, window: int = 0) -> Tensor:
    """(batch, sequence, features) -> (batch, heads, sequence, width).

    With a window of so many tokens: (batch, heads * windows, window, width), those of a head one after the
    other.
    """
    batch, sequence, features = x.shape
    apart = x.reshape(batch, sequence, heads, features // heads).transpose(1, 2)
    return apart.reshape(batch, -1, window, features // heads) if window else apart


def merge_heads(x: Tensor, heads: int) -> Tensor:
    """(batch, heads, sequence, width), or in windows, -> (batch, sequence, features)."""
    return x.reshape(len(x), heads, -1, x.shape[-1]).transpose(1, 2).flatten(-2)


def _attention(
    m: NetworkModule, s: Site, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
) -> Tensor:
    scores = attention_scores(m, s, q, k)
    heads = int(s.attributes["heads"])
    values = split_heads(v, heads, window_of(s))
    if s.attributes.get("form") == "relu":
        keep = seen_keys(scores, mask, causal=bool(s.attributes.get("causal", False)))
        return merge_heads(relu_weights(scores.float(), keep).to(v.dtype) @ values, heads)
    if mask is not None:
        scores = scores + (1.0 - mask[:, None, None, :].to(scores.dtype)) * MASKED
    return merge_heads(torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ values, heads)


def mean_pool(x: Tensor, mask: Tensor) -> Tensor:
    """Mean over the valid tokens: (batch, sequence, features), (batch, sequence) -> (batch, features)."""
    weights = mask.to(x.dtype)[:, :, None]
    return (x * weights).sum(1) / weights.sum(1).clamp_min(1.0)


def _embedding(m: NetworkModule, s: Site, ids: Tensor) -> Tensor:
    """A row of the table, or the sum of one row of each code book."""
    if "table" in s.parameters:
        return F.embedding(ids, m.parameter(s, "table"))
    books, codes = m.parameter(s, "books"), m.parameter(s, "codes").long()
    return torch.stack([F.embedding(codes[ids, i], book) for i, book in enumerate(books)]).sum(0)


def _add(m: NetworkModule, s: Site, x: Tensor, y: Tensor | None = None) -> Tensor:
    return x + (y if y is not None else m.parameter(s, "table")[: x.shape[1]])


def _mul(m: NetworkModule, s: Site, x: Tensor, y: Tensor | None = None) -> Tensor:
    return x * (y if y is not None else m.parameter(s, "table")[: x.shape[1]])


def _norm(m: NetworkModule, s: Site, x: Tensor) -> Tensor:
    weight, bias, eps = m.parameter(s, "weight"), m.parameter(s, "bias"), float(s.attributes["eps"])
    if groups_of(s) == 1:
        return F.layer_norm(x, weight.shape, weight, bias, eps)
    x = grouped(x, groups_of(s))
    return F.layer_norm(x, x.shape[-1:], eps=eps).flatten(-2) * weight + bias


def _rms_norm(m: NetworkModule, s: Site, x: Tensor) -> Tensor:
    x = grouped(x, groups_of(s))
    normed = F.rms_norm(x, list(x.shape[-1:]), eps=float(s.attributes["eps"])).flatten(-2)
    return normed * m.parameter(s, "weight") + m.parameter(s, "bias")


def _linear(m: NetworkModule, s: Site, x: Tensor) -> Tensor:
    return bounded(F.linear(x, m.parameter(s, "weight"), m.parameter(s, "bias")), cap_of(s))


def _silu(m: NetworkModule, s: Site, x: Tensor) -> Tensor:
    return x * torch.sigmoid(float(s.attributes.get("slope", 1.0)) * x)


def _window(s: Site) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Kernel, stride and padding of a pooling site, (height, width) each."""
    kernel = int(s.attributes["kernel_y"]), int(s.attributes["kernel_x"])
    return kernel, *strides(s)


def strides(s: Site) -> tuple[tuple[int, int], tuple[int, int]]:
    """Stride and padding of a site with a window, (height, width) each."""
    stride = int(s.attributes["stride_y"]), int(s.attributes["stride_x"])
    return stride, (int(s.attributes["pad_y"]), int(s.attributes["pad_x"]))


def _convolution(m: NetworkModule, s: Site, x: Tensor) -> Tensor:
    stride, pad = strides(s)
    groups = int(s.attributes["groups"])
    return F.conv2d(x, m.parameter(s, "weight"), m.parameter(s, "bias"), stride, pad, groups=groups)


def shifted(x: Tensor, by: int) -> Tensor:
    """(batch, sequence, features) of the token `by` places before each, zeros where there is none."""
    length = x.shape[1]
    longer = F.pad(x, (0, 0, max(by, 0), max(-by, 0)))
    return longer[:, :length] if by > 0 else longer[:, -length:]


def in_windows(x: Tensor, windows: Windows) -> Tensor:
    """(batch, tokens, features) in the order of windows, or back from it."""
    order = torch.from_numpy(windows.order()).to(x.device)
    if windows.adds_zeros:
        x, order = F.pad(x, (0, 0, 0, 1)), torch.where(order < 0, x.shape[1], order)
    return x.index_select(1, order)


def beside(x: Tensor, count: int) -> Tensor:
    """(batch, tokens, features) -> (batch, tokens / count, count * features)."""
    return x.reshape(len(x), -1, count * x.shape[-1])


def _other(m: NetworkModule, s: Site, *inputs: Tensor) -> Tensor:
    raise RuntimeError(f"{s.name}: {s.attributes.get('aten', s.op)} cannot be executed")


OPERATORS: dict[Op, Callable[..., Tensor]] = {
    Op.EMBEDDING: _embedding,
    Op.ADD: _add,
    Op.MUL: _mul,
    Op.LAYER_NORM: _norm,
    Op.RMS_NORM: _rms_norm,
    Op.BATCH_NORM: lambda m, s, x: x * m.parameter(s, "weight") + m.parameter(s, "bias"),
    Op.LINEAR: _linear,
    Op.GELU: lambda m, s, x: F.gelu(x, approximate=str(s.attributes.get("approximate", "none"))),
    Op.RELU: lambda m, s, x: F.relu(x),
    Op.SILU: _silu,
    Op.TANH: lambda m, s, x: torch.tanh(x),
    Op.RECTIFIER: lambda m, s, x: interpolated(x, m.parameter(s, "samples")),
    Op.SIGMOID: lambda m, s, x: torch.sigmoid(x),
    Op.CLIP: lambda m, s, x: x.clamp(*limits_of(s)),
    Op.ATTENTION: _attention,
    Op.TOKEN_MIX: lambda m, s, x, mask=None: mix_tokens(
        x, m.parameter(s, "weight"), m.parameter(s, "bias"), mask
    ),
    Op.CONCAT: lambda m, s, *parts: torch.cat(parts, 1 if parts[0].dim() == 4 else -1),
    Op.SLICE: lambda m, s, x: m.parameter(s, "table")[: x.shape[1]].to(x.dtype).expand_as(x),
    Op.MEAN_POOL: lambda m, s, x, mask: mean_pool(x, mask),
    Op.TOKEN_MEAN: lambda m, s, x: x[:, int(s.attributes["first"]) :].mean(1),
    Op.SELECT: lambda m, s, x: x[:, int(s.attributes["index"])],
    Op.REQUANTIZE: lambda m, s, x: x,
    Op.CONV: _convolution,
    Op.MAX_POOL: lambda m, s, x: F.max_pool2d(x, *_window(s)),
    Op.AVG_POOL: lambda m, s, x: F.avg_pool2d(x, *_window(s)),
    Op.TO_TOKENS: lambda m, s, x: x.flatten(2).transpose(1, 2),
    Op.TO_MAP: lambda m, s, x: x.transpose(1, 2).unflatten(2, (int(s.attributes["height"]), -1)),
    Op.PREPEND: lambda m, s, x: F.pad(x, (0, 0, int(s.attributes["rows"]), 0)),
    Op.SHIFT: lambda m, s, x: shifted(x, int(s.attributes["by"])),
    Op.WINDOWS: lambda m, s, x: in_windows(x, Windows.of(s.attributes)),
    Op.RESHAPE: lambda m, s, x: beside(x, int(s.attributes["beside"])),
    Op.FLATTEN: lambda m, s, x: x.flatten(1),
    Op.OTHER: _other,
}
