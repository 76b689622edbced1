"""Model -> one ATen graph (torch.export) -> a Network of sites, whatever library the model came from.

No class name and no module name decides anything. A sentence encoder's pooling and normalisation are
added as sites behind the captured graph.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from archnet.aten import Translator
from archnet.aten_image import IMAGE_INPUT
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.network import Network, Site, detached
from archnet.operators import Op
from archnet.side_values import Probe, make_probes
from archnet.simplify import with_biases, with_layers, with_logits
from archnet.sources.source import named_outputs
from archnet.sources.traceable import masks_as_given
from archnet.spelling import spelled_alike
from archnet.token_values import node_kind
from archnet.valid import mask_of, row_masks, valid_rows

INPUTS = ("input_ids", "attention_mask")
LANGUAGE_INPUTS = ("decoder_input_ids", "decoder_attention_mask")
TRANSLATION_INPUTS = (*INPUTS, *LANGUAGE_INPUTS)
TOLERANCE = 2e-3
"""Largest relative error of the captured network against the original on random input."""


@dataclass(frozen=True, slots=True)
class Capture:
    """The captured teacher.

    Attributes:
        network: every site of the model; unknown operators are sites of Op.OTHER.
        unknown: those sites, each with the reason in attributes["reason"].
        error: largest relative error of the outputs against the original, NaN when unknown is not empty.
    """

    network: Network
    unknown: tuple[Site, ...]
    error: float


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings about the user's model off the terminal."""
    loggers = [
        logging.getLogger("torch.export"),
        logging.getLogger("torch.fx"),
        logging.getLogger("torch._dynamo"),
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_graph(
    module: nn.Module, vocabulary: int, inputs: tuple[str, ...] = INPUTS
) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """torch.export of a module called with these inputs, (batch, sequence) int64 each with free sizes.

    Returns:
        The graph and the names of its outputs in order.
    """
    lengths = {name: 20 if name.startswith("decoder_") else 24 for name in inputs}
    probe = make_probes(vocabulary, 24, padding=None, sides=_sides(inputs))[0]
    example = {name: probe.values[name][:, :length].clone() for name, length in lengths.items()}
    return exported(module, example, free_axes=2)


def exported(
    module: nn.Module, example: Mapping[str, Tensor], *, free_axes: int
) -> tuple[fx.GraphModule, tuple[str, ...]]:
    """torch.export of a module.

    Args:
        example: its inputs by name.
        free_axes: how many leading axes of each input have free sizes.

    Returns:
        The graph and the names of its outputs in order.
    """
    free = torch.export.Dim.AUTO
    shapes = {name: dict.fromkeys(range(free_axes), free) for name in example}
    try:
        with _quiet(), masks_as_given(), torch.no_grad():
            result = module(**example)
            program = torch.export.export(module, (), dict(example), dynamic_shapes=shapes)
            graph = program.module()
    except Exception as error:
        line = next((text for text in str(error).splitlines() if text.strip()), type(error).__name__)
        raise ArchNetError(
            f"the model cannot be captured by torch.export: {line.strip()[:300]}",
            fix=f"make forward({', '.join(example)}) traceable (no data-dependent Python branches); "
            "see docs/convert_your_model.md",
        ) from error
    names = _output_names(result)
    if not isinstance(graph, fx.GraphModule):
        raise TypeError("torch.export returned no GraphModule")
    _without_assertions(graph)
    spelled_alike(graph)
    return graph, names


def _without_assertions(graph: fx.GraphModule) -> None:
    """Take out checks of dtypes, which compute nothing but would count as readers of what they look at."""
    for node in [n for n in graph.graph.nodes if node_kind(n) == "_assert_tensor_metadata"]:
        graph.graph.erase_node(node)
    graph.recompile()


def _sides(inputs: tuple[str, ...]) -> tuple[str, ...]:
    """Prefixes of the sequences that a model reads."""
    return tuple(side for side in ("", "decoder_") if f"{side}input_ids" in inputs)


def _output_names(result: object) -> tuple[str, ...]:
    names = tuple(named_outputs(result))
    if not names:
        raise ArchNetError(
            f"the model returns {type(result).__name__} without a float tensor",
            fix="return a tensor, a tuple of tensors or a dict of tensors from forward",
        )
    return names


def vocabulary_of(module: nn.Module) -> int:
    """Rows of the word embedding: the one that the model names, else its largest embedding table.

    Raises:
        ArchNetError: the model has no embedding (it does not read tokens).
    """
    named = getattr(module, "get_input_embeddings", None)
    table = named() if callable(named) else None
    if isinstance(table, nn.Embedding):
        return table.num_embeddings
    sizes = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    if not sizes:
        raise ArchNetError(
            "the model has no Embedding, so it does not read token ids",
            fix="this version converts models that take input_ids and attention_mask",
        )
    return max(sizes)


def capture(
    module: nn.Module,
    *,
    max_sequence: int,
    pooling: str | None = None,
    normalize: bool = False,
    padding_id: int | None = None,
    inputs: tuple[str, ...] = INPUTS,
) -> Capture:
    """Capture a model that reads text as a Network and check it against the original.

    Args:
        module: called with `inputs` by name, int64 (batch, sequence) each.
        max_sequence: rows of the position tables that the network keeps.
        pooling: "mean" or "cls" adds the output "sentence_embedding".
        normalize: divide the sentence embedding by its L2 norm.
        padding_id: the token that stands for padding (some models derive positions from it).
        inputs: INPUTS, TRANSLATION_INPUTS of an encoder-decoder, LANGUAGE_INPUTS of a decoder alone.

    Raises:
        ArchNetError: the model cannot be exported, or the captured network computes something else.
    """
    module.eval()
    vocabulary = vocabulary_of(module)
    graph, names = export_graph(module, vocabulary, inputs)
    probes = make_probes(vocabulary, max_sequence, padding=padding_id, sides=_sides(inputs))
    network = Translator(graph, inputs, names, probes).network()
    if not network.outputs:
        raise ArchNetError(
            "no output of the model depends on its tokens in a way that Arch-Net can follow",
            fix="look input_ids up in an Embedding and return a float tensor that is computed from it",
        )
    if pooling is not None:
        network = _pooled(network, pooling, normalize)
    return _checked(network, module, probes[1:])


def capture_image(module: nn.Module, size: tuple[int, int, int]) -> Capture:
    """Capture an image model as a Network and check it against the original.

    Args:
        module: called with pixel_values, float32 (batch, channels, height, width).
        size: channels, height and width of its images; the network is for this size only.

    Raises:
        ArchNetError: the model cannot be exported, or the captured network computes something else.
    """
    module.eval()
    generator = torch.Generator().manual_seed(0)
    probes = [Probe({IMAGE_INPUT: torch.randn(n, *size, generator=generator)}) for n in (2, 2, 3)]
    graph, names = exported(module, probes[0].values, free_axes=1)
    network = Translator(graph, (IMAGE_INPUT,), names, (probes[0], probes[1], probes[2])).network()
    if not network.outputs:
        raise ArchNetError(
            "no output of the model depends on its pixels in a way that Arch-Net can follow",
            fix="return a float tensor that is computed from pixel_values",
        )
    return _checked(network, module, probes[1:])


def _checked(network: Network, module: nn.Module, probes: Sequence[Probe]) -> Capture:
    """The network without what no output needs, compared with the original on probes.

    Of text they are the longest sequences, where windows show, and short padded ones.
    """
    network = with_biases(replace(network, tensors=detached(network.tensors)).pruned())
    network = with_logits(with_layers(network))
    unknown = tuple(site for site in network.sites if site.op is Op.OTHER)
    error = float("nan") if unknown else max(_check(network, module, probe) for probe in probes)
    return Capture(network, unknown, error)


def _pooled(network: Network, pooling: str, normalize: bool) -> Network:
    """Add a sentence encoder's pooling; its outputs are the token states and the embedding."""
    tokens = next(iter(network.outputs.values()))
    if pooling == "mean":
        site = Site("pooling", Op.MEAN_POOL, (tokens, "attention_mask"))
    else:
        site = Site("pooling", Op.SELECT, (tokens,), attributes={"index": 0})
    outputs = {"sentence_embedding": "pooling", next(iter(network.outputs)): tokens}
    normalized = frozenset({"sentence_embedding"}) if normalize else frozenset[str]()
    return replace(network, sites=(*network.sites, site), outputs=outputs, normalized=normalized)


@torch.no_grad()
def _check(network: Network, module: nn.Module, probe: Probe) -> float:
    """Largest relative error of the captured outputs at valid positions of a padded batch."""
    got = NetworkModule(network)(probe.values)
    masks = row_masks(network)
    worst = 0.0
    for name, wanted in named_outputs(module(**probe.values)).items():
        if name not in network.outputs:
            continue
        value = got[network.outputs[name]]
        if wanted.dim() == 3:
            mask = mask_of(probe.values, masks[network.outputs[name]])
            wanted, value = valid_rows(wanted, mask), valid_rows(value, mask)
        if name in network.normalized:
            value = F.normalize(value, dim=-1)
        error = float((value - wanted).abs().max() / wanted.abs().max().clamp_min(1e-6))
        worst = max(worst, error if math.isfinite(error) else math.inf)
    if worst <= TOLERANCE:
        return worst
    if IMAGE_INPUT in network.inputs:
        raise ArchNetError(
            f"the captured network differs from the original by {worst:.2g} (relative) on random images",
            fix="please report the model",
        )
    raise ArchNetError(
        f"the captured network differs from the original by {worst:.2g} (relative) on random tokens",
        fix="the model uses its attention mask in a way that Arch-Net does not know; please report the model",
    )
