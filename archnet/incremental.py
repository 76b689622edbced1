"""Runs a decoder, or an encoder and its decoder, token by token in PyTorch, with the keys and values seen."""

from __future__ import annotations

import torch
from torch import Tensor

from archnet.converters.softmax import bounded, cap_of, relu_weights
from archnet.executor import OPERATORS, NetworkModule, merge_heads, split_heads
from archnet.network import Site, decoder_sites
from archnet.operators import Op


class IncrementalDecoder:
    """A captured or folded encoder-decoder or language model as a Stepper of `archnet.search`.

    Args:
        module: of a network with the output "logits", in eval mode.
    """

    def __init__(self, module: NetworkModule) -> None:
        self.module = module
        self.decoder = decoder_sites(module.network)
        names = {site.name for site in self.decoder}
        self.given = sorted(
            {name for site in self.decoder for name in site.inputs} - names - {"decoder_input_ids"}
        )
        self.logits = module.network.outputs["logits"]
        self.memory: dict[str, Tensor] = {}
        self.caches: dict[str, tuple[Tensor, Tensor]] = {}
        self.position = 0
        self.sentences = torch.zeros(0, dtype=torch.int64)
        """Of each row, in which order its source was given."""

    @torch.no_grad()
    def start(self, input_ids: Tensor, attention_mask: Tensor, *, beams: int, max_length: int) -> None:
        """Read the sources: everything that does not depend on the target is computed once."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        values: dict[str, Tensor] = dict(inputs)
        behind = {site.name for site in self.decoder}
        for site in self.module.network.sites:
            if site.name not in behind:
                arguments = [values[name] for name in site.inputs]
                values[site.name] = OPERATORS[site.op](self.module, site, *arguments)
        self.memory = {name: values[name].repeat_interleave(beams, 0) for name in self.given}
        self.sentences = torch.arange(len(input_ids), device=input_ids.device).repeat_interleave(beams)
        self.caches, self.position, self.max_length = {}, 0, max_length

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """int64 (rows,) -> float32 logits (rows, vocabulary)."""
        values: dict[str, Tensor] = {**self.memory, "decoder_input_ids": tokens[:, None]}
        for site in self.decoder:
            arguments = [values[name] for name in site.inputs]
            if site.op in (Op.ADD, Op.MUL) and len(arguments) == 1:
                row = self.module.parameter(site, "table")[self.position]
                values[site.name] = arguments[0] + row if site.op is Op.ADD else arguments[0] * row
            elif site.attributes.get("causal", False):
                values[site.name] = self._attend(site, *arguments[:3])
            else:
                values[site.name] = OPERATORS[site.op](self.module, site, *arguments)
        self.position += 1
        return values[self.logits][:, 0].float()

    def _attend(self, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of one new token to itself and to those before it, (rows, 1, features) each."""
        if site.name not in self.caches:
            shape = (len(key), self.max_length, key.shape[-1])
            self.caches[site.name] = (key.new_zeros(shape), key.new_zeros(shape))
        keys, values = self.caches[site.name]
        keys[:, self.position], values[:, self.position] = key[:, 0], value[:, 0]
        heads, length = int(site.attributes["heads"]), self.position + 1
        scores = split_heads(query, heads) @ split_heads(keys[:, :length], heads).transpose(-1, -2)
        scores = bounded(scores * float(site.attributes["scale"]), cap_of(site))
        if "bias" in site.parameters:
            scores = scores + self.module.parameter(site, "bias")[:, None, self.position, :length]
        relu = site.attributes.get("form") == "relu"
        weights = relu_weights(scores, None) if relu else torch.softmax(scores, -1)
        return merge_heads(weights @ split_heads(values[:, :length], heads), heads)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows."""
        sentences = self.sentences[rows]
        if not torch.equal(sentences, self.sentences):  # beams of one sentence read the same memory
            self.memory = {name: value[rows] for name, value in self.memory.items()}
            self.sentences = sentences
        self.caches = {
            name: (self._taken(k, rows), self._taken(v, rows)) for name, (k, v) in self.caches.items()
        }

    def _taken(self, cache: Tensor, rows: Tensor) -> Tensor:
        """Rows of a cache; what lies behind the position is not written yet, and is not copied."""
        taken = cache.new_empty(len(rows), *cache.shape[1:])
        taken[:, : self.position] = cache[:, : self.position][rows]
        return taken
