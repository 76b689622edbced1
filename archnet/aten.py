"""Translates the ATen nodes of a captured graph into sites.

Nodes that do not depend on the tokens' embeddings are side values: they are computed on probes and
recognised by what they are (archnet/side_values.py). Views and transposes of attention heads are
tracked as layouts and vanish. Elementwise chains are named by what they compute (archnet/aten_curves.py),
pooling by its values (archnet/aten_pooling.py). Everything that is not known becomes a site of
Op.OTHER with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, fx, nn

from archnet.aten_curves import curve_of, named_curve
from archnet.aten_handlers import HANDLERS
from archnet.aten_image import IMAGE_INPUT
from archnet.aten_moved import moved, named
from archnet.aten_scaled import bounded_words, scaled_features, takes_scale
from archnet.curves import ELEMENTWISE
from archnet.network import Network, Site, SiteAttribute
from archnet.operators import Op
from archnet.side_values import Probe, record, side_constant
from archnet.token_values import (
    FEATURES,
    LIKE,
    PER_HEAD,
    Curve,
    Known,
    Moved,
    MovedParts,
    Relative,
    Scores,
    Unknown,
    Value,
    node_kind,
)
from archnet.valid import MASKS

ATTENDED = frozenset(("heads", "merged", "merged_t"))
"""Layouts that only attention, and what knows of gains, asks for."""

PASS_THROUGH = frozenset(
    "alias clone contiguous detach dropout feature_dropout getitem to _to_copy type_as".split()
)

MISREAD = (AssertionError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What handlers raise when a known operator has arguments that they do not expect."""


@dataclass
class Translator:
    """One translation of one graph; call `network()` once."""

    graph: fx.GraphModule
    inputs: tuple[str, ...]
    output_names: tuple[str, ...]
    probes: tuple[Probe, Probe, Probe]
    sites: list[Site] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    known: dict[fx.Node, Known] = field(default_factory=dict)
    unmasked: dict[str, fx.Node] = field(default_factory=dict)
    named: dict[fx.Node, Value] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    normalized: set[str] = field(default_factory=set)
    tables: dict[str, Tensor] = field(default_factory=dict)
    """Of word embeddings that nothing has been done to yet, by site."""
    picked: dict[tuple[str, tuple[int, ...], tuple[float, ...]], str] = field(default_factory=dict)
    """Layers that give features of a site in another order, by site, features and factors."""
    turned: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Sums of products with tables of positions -> those products (rotary position embedding)."""

    def __post_init__(self) -> None:
        nodes = [n for n in self.graph.graph.nodes if n.op == "call_function"]
        self.recorded = [record(self.graph, self.inputs, probe, nodes) for probe in self.probes]

    def network(self) -> Network:
        """Translate every node in order."""
        outputs: dict[str, str] = {}
        for node in self.graph.graph.nodes:
            if node.op == "call_function":
                self._visit(node)
            elif node.op == "placeholder" and node.name == IMAGE_INPUT:
                self.known[node] = Value(IMAGE_INPUT, "map")
            elif node.op == "output":
                outputs = self._outputs(node)
        return Network(self.inputs, tuple(self.sites), self.tensors, outputs, frozenset(self.normalized))

    def _outputs(self, node: fx.Node) -> dict[str, str]:
        """The user's float outputs by name; one that is no known tensor becomes a refused site."""
        flat = [a for a in _flat(node.args[0]) if self._is_float(a)]
        outputs: dict[str, str] = {}
        for name, value in zip(self.output_names, flat, strict=False):
            found = self._output(value)
            if found is None:
                continue
            ends = isinstance(found, Value) and found.layout in ("tokens", "masked", "row")
            if isinstance(found, Value) and (ends or found.site in self.refused):
                if found.gain != 1.0:
                    # A layer behind it would be the square of a vocabulary.
                    scaled = takes_scale(self, found)
                    reason = "an output that is scaled behind something else than its layer"
                    found = self.value(value) if scaled else self._other(value, "mul", reason)
                outputs[name] = found.site
            elif isinstance(found, Value) and found.layout == "normalized":
                outputs[name] = found.site
                self.normalized.add(name)
            else:
                reason = "this output is neither token features nor a row of features"
                outputs[name] = self._other(value, node_kind(value), reason).site
        return outputs

    def _output(self, node: fx.Node) -> Known | None:
        """What is known of an output; None where it does not depend on what the model reads."""
        try:
            return bounded_words(self, node) or (self.settled(node) if node in self.known else None)
        except Unknown as error:
            return self._other(node, node_kind(node), str(error))

    def _is_float(self, value: fx.Node) -> bool:
        recorded = self.recorded[0].get(value)
        return recorded is not None and recorded.is_floating_point()

    def _visit(self, node: fx.Node) -> None:
        kind = node_kind(node)
        if kind == "embedding":
            self._embedding(node)
            return
        if kind in LIKE and node.args[0] not in self.known:
            return  # of the features only their shape counts: a side value
        if kind.startswith("sym_") or not any(a in self.known for a in node.all_input_nodes):
            return
        if kind.removesuffix("_") in PASS_THROUGH and not isinstance(
            self.known[node.all_input_nodes[0]], MovedParts
        ):
            self.known[node] = self.known[node.all_input_nodes[0]]
            return
        handler = HANDLERS.get(kind.rstrip("_"))
        try:
            curve = curve_of(self, node) if kind.rstrip("_") in ELEMENTWISE else None
            if curve is None and handler is None:
                raise Unknown("no converter knows this operator")
            self.known[node] = curve or (handler or self._unhandled)(self, node)
        except (Unknown, *MISREAD) as error:
            if (on := self._moved(node)) is not None:
                self.known[node] = on
                return
            if handler is not None and (behind := self._refused_source(node)) is not None:
                self.known[node] = behind  # named once already, where the unknown begins
                return
            reason = (
                str(error) if isinstance(error, Unknown) else "its arguments have a form that is not known"
            )
            self.known[node] = self._other(node, kind, reason)

    def _moved(self, node: fx.Node) -> Moved | MovedParts | None:
        try:
            return moved(self, node)
        except (Unknown, *MISREAD):
            return None

    @staticmethod
    def _unhandled(t: Translator, node: fx.Node) -> Known:
        raise Unknown("no converter knows this operator")

    def _refused_source(self, node: fx.Node) -> Value | None:
        for source in node.all_input_nodes:
            found = self.known.get(source)
            if isinstance(found, Value) and found.site in self.refused:
                return found
        return None

    def _other(self, node: fx.Node, kind: str, reason: str) -> Value:
        names: list[str] = []
        for source in node.all_input_nodes:
            found = self._placed_or_base(source) if source in self.known else None
            if isinstance(found, Value):
                names.append(found.site)
            elif isinstance(found, Scores):
                names.append(found.query.site)
            elif isinstance(found, Relative):
                names.append(found.terms[0].of.site)
        return self.refuse(node, kind, reason, names)

    def _placed_or_base(self, node: fx.Node) -> Known:
        """What is known of a node; of features in an order of no layout, what they come from."""
        try:
            return self.settled(node)
        except Unknown:
            found = self.known[node]
            if isinstance(found, MovedParts):
                found = found.parts[0]
            if not isinstance(found, Moved):
                raise
            return found.base

    def refuse(self, node: fx.Node, kind: str, reason: str, inputs: Sequence[str]) -> Value:
        """A site that nothing can compute, with the reason."""
        attributes: dict[str, SiteAttribute] = {"aten": f"aten.{kind}", "reason": reason}
        site = self.add_site(node, Op.OTHER, tuple(dict.fromkeys(inputs)), attributes=attributes)
        self.refused.add(site)
        return Value(site)

    def settled(self, node: object) -> Known:
        """What is known of a node; a chain of elementwise operators becomes a site of the graph."""
        found = self.known.get(node) if isinstance(node, fx.Node) else None
        if found is None:
            raise Unknown("a constant stands where token features are expected")
        if isinstance(found, (Moved, MovedParts)):
            return self._placed(node, found)
        if not isinstance(found, Curve):
            return found
        if found.node not in self.named:
            self.named[found.node] = named_curve(self, found)
        return self.named[found.node]

    def _placed(self, node: object, found: Moved | MovedParts) -> Value:
        """The sites that compute moved features, made once."""
        if isinstance(found, MovedParts):
            raise Unknown("a list of tensors stands where one is expected")
        assert isinstance(node, fx.Node)
        if node not in self.named:
            try:
                self.named[node] = named(self, node, found)
            except MISREAD as error:
                raise Unknown("features that are moved in a way that is not known") from error
        return self.named[node]

    def scaled_words(self, node: fx.Node, words: Value, factor: float) -> Value:
        """A word embedding times a number: an embedding from a table of its own."""
        parameters = {"table": self.tables[words.site] * factor}
        ids = next(site.inputs for site in self.sites if site.name == words.site)
        site = self.add_site(node, Op.EMBEDDING, ids, parameters=parameters)
        self.tables[site] = parameters["table"]
        return replace(words, site=site)

    def add_site(
        self,
        node: fx.Node,
        op: Op,
        inputs: tuple[str, ...],
        *,
        parameters: Mapping[str, Tensor] | None = None,
        attributes: Mapping[str, SiteAttribute] | None = None,
    ) -> str:
        name = self._path(node, op)
        keys = {}
        for role, tensor in (parameters or {}).items():
            keys[role] = f"{name}.{role}"
            self.tensors[keys[role]] = tensor.detach()
        self.sites.append(Site(name, op, inputs, keys, dict(attributes or {})))
        return name

    def _path(self, node: fx.Node, op: Op) -> str:
        """Module path of the node, made unique; weights' own paths name fully connected sites best."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = str(stack[-1][0]) if stack else ""
        path = path or str(node.name)
        if op in (Op.ADD, Op.ATTENTION, Op.OTHER) or not stack:
            path = f"{path}.{str(op).lower()}"
        taken = {site.name for site in self.sites} | set(self.inputs)
        if path not in taken:
            return path
        return next(f"{path}.{i}" for i in range(1, len(taken) + 2) if f"{path}.{i}" not in taken)

    # Values -----------------------------------------------------------------------------------

    def tensor(self, node: object) -> Tensor:
        """The constant that a side node holds (a parameter or what is computed from constants)."""
        if not isinstance(node, fx.Node) or node in self.known:
            raise Unknown("a parameter is expected here")
        if node.op == "get_attr":
            return attribute_of(self.graph, str(node.target))
        if not self.is_constant(node):
            raise Unknown("its parameter is not constant")
        return self.recorded[0][node]

    def is_constant(self, node: fx.Node) -> bool:
        """Whether `tensor` has a value for it."""
        if node.op == "get_attr":
            return True
        first, second = self.recorded[0].get(node), self.recorded[1].get(node)
        return first is not None and second is not None and torch.equal(first, second)

    def value(self, node: object, *layouts: str) -> Value:
        """The token-dependent value of a node, in one of these layouts and without a pending gain."""
        found = self.scaled_value(node, *layouts)
        if found.gain == 1.0 or (found.layout in PER_HEAD and not ATTENDED.isdisjoint(layouts)):
            return found
        if found.layout not in FEATURES:
            raise Unknown("a scaled tensor is known only as the query or key of attention")
        assert isinstance(node, fx.Node)
        width = self.shape(node)[-1]
        value = scaled_features(self, node, replace(found, gain=1.0), torch.full((width,), found.gain))
        self.known[node] = value
        return value

    def scaled_value(self, node: object, *layouts: str) -> Value:
        """The same with its pending gain, for an operator that can take it in."""
        found = self.settled(node) if isinstance(node, fx.Node) and node in self.known else None
        if not isinstance(found, Value):
            raise Unknown("attention scores or a constant stand where token features are expected")
        if found.layout == "masked" and "tokens" in layouts and "masked" not in layouts:
            found = replace(found, layout="tokens")  # what stands in place of padding reaches nobody
        if found.layout in ("leading", "later", "earlier") and found.layout not in layouts:
            raise Unknown("it works on some of the tokens only")
        if layouts and found.layout not in layouts:
            raise Unknown(f"it is not known on features in the layout '{found.layout}'")
        return found

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        """Shape of the node on the first probe."""
        return tuple(self.recorded[0][node].shape)

    def _embedding(self, node: fx.Node) -> None:
        name, layout = self._ids(node.args[1])
        if name:
            table = self.tensor(node.args[0])
            site = self.add_site(node, Op.EMBEDDING, (name,), parameters={"table": table})
            self.tables[site] = table
            self.known[node] = Value(site, layout, tokens=MASKS[name])

    def _ids(self, node: object) -> tuple[str, str]:
        """The input of token ids that a node is, however it is passed on, and in which layout."""
        if not isinstance(node, fx.Node):
            return "", ""
        if node.op == "placeholder":
            return (str(node.name) if node.name in MASKS else ""), "tokens"
        found = [recorded.get(node) for recorded in self.recorded]
        for name in MASKS:
            ids = [probe.values.get(name) for probe in self.probes]
            pairs = [(a, b) for a, b in zip(found, ids, strict=True) if a is not None and b is not None]
            if len(pairs) == len(ids) and all(torch.equal(a, b) for a, b in pairs):
                return name, "tokens"
            if len(pairs) == len(ids) and all(torch.equal(a, b.T) for a, b in pairs):
                return name, "turned"
        return "", ""

    @property
    def batch(self) -> int:
        """Rows of the batch on the first probe."""
        return len(next(iter(self.probes[0].values.values())))

    def side_table(self, node: fx.Node, size: tuple[int, ...]) -> Tensor:
        """A side value that is added to token features of (sequence, features): constant, of that size."""
        if node.op == "get_attr":
            constant: Tensor | None = attribute_of(self.graph, str(node.target))
        else:
            constant = side_constant(self.recorded[0][node], self.recorded[1][node], batched_rank=3)
        if constant is None:
            raise Unknown("what is added depends on the input in an unknown way")
        sequence, width = size
        if constant.numel() not in (width, sequence * width) or constant.shape[-1] != width:
            raise Unknown("what is added has another shape than (sequence, features)")
        return constant.reshape(-1, width).float().expand(sequence, width).contiguous()


def attribute_of(module: nn.Module, path: str) -> Tensor:
    """The parameter or buffer at a dotted path."""
    owner, _, name = path.rpartition(".")
    value = getattr(module.get_submodule(owner), name)
    if not isinstance(value, Tensor):
        raise Unknown(f"{path} is no tensor")
    return value


def _flat(value: object) -> list[fx.Node]:
    """The nodes among a graph's results, in order."""
    if isinstance(value, fx.Node):
        return [value]
    return [node for item in value for node in _flat(item)] if isinstance(value, (tuple, list)) else []
