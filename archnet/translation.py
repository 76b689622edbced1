"""Translation with a build: token ids or sentences in, translations out, on any backend or in float."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import Tensor

from archnet.backends import ENCODERS_ALONE, open_backend
from archnet.backends.base import Backend
from archnet.build import BuildDir
from archnet.encode import open_tokenizer, padding_id, token_batches
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.generation import GenerationSettings
from archnet.graph import QuantizedGraph
from archnet.incremental import IncrementalDecoder
from archnet.integer_decoder import IntegerDecoder
from archnet.network_storage import load_folded
from archnet.parts import DECODER, ENCODER
from archnet.search import Stepper, generate
from archnet.storage import load_graph

SENTENCES = 32
"""Sources that are read at a time."""


@dataclass(frozen=True)
class Search:
    """How to search, where the model's own settings are not to be followed.

    Attributes:
        num_beams: 1 searches greedily.
        max_length: most tokens of a translation, its first one included.
        length_penalty: a translation's score is divided by its length to this power (beams only).
    """

    num_beams: int | None = None
    max_length: int | None = None
    length_penalty: float | None = None

    def over(self, settings: GenerationSettings, longest: int) -> tuple[int, int, float]:
        """Beams, greatest length and length penalty: what is said here, else what the model says.

        Raises:
            ArchNetError: there are fewer than 1 beam, or the length is not within 2 to `longest`.
        """
        beams = settings.num_beams if self.num_beams is None else self.num_beams
        length = longest if self.max_length is None else self.max_length
        penalty = settings.length_penalty if self.length_penalty is None else self.length_penalty
        if beams < 1:
            raise ArchNetError(f"{beams} beams cannot be searched", fix="give 1 (greedy) or more")
        if not 2 <= length <= longest:
            raise ArchNetError(
                f"max_length {length} is out of range",
                fix=f"give 2 to {longest} tokens, or convert with a greater --seq-len",
            )
        return beams, length, penalty


@dataclass(frozen=True)
class DecoderRun(ABC):
    """A decoder with all that a search needs.

    Attributes:
        stepper: the network, integer or float.
        settings: of the model.
        longest: most tokens of a source, and of what is written, its beginning included.
        tokenizer_dir: of the build.
    """

    stepper: Stepper
    settings: GenerationSettings
    longest: int
    tokenizer_dir: Path

    @classmethod
    def open(cls, build: BuildDir, encoder: Backend | None, decoder: Backend) -> Self:
        """The integer networks of a build in opened backends; a language model has no encoder."""
        graph = load_graph(build.path / DECODER / "graph")
        return cls._with(build, IntegerDecoder(encoder, decoder, graph), graph)

    @classmethod
    def open_float(cls, build: BuildDir) -> Self:
        """The float original of a build, in PyTorch.

        Raises:
            ArchNetError: it is missing or damaged.
        """
        return cls._with(build, float_stepper(build), load_graph(build.path / DECODER / "graph"))

    @classmethod
    def _with(cls, build: BuildDir, stepper: Stepper, graph: QuantizedGraph) -> Self:
        return cls(stepper, generation_of(build), graph.max_sequence, build.tokenizer_dir)

    @abstractmethod
    def generate(self, input_ids: Tensor, attention_mask: Tensor, search: Search) -> Tensor:
        """What is written for token ids, int64 (batch, tokens), padded on the right."""

    @abstractmethod
    def text_of(self, tokenizer: Tokenizer, source: str, length: int, row: Sequence[int]) -> str:
        """What is written for a source of so many tokens, of which `generate` gave this row."""

    def write(
        self,
        sources: Sequence[str],
        search: Search,
        *,
        progress: Callable[[int], None] = lambda done: None,
    ) -> list[str]:
        """What is written for each source, in the order given; empty ones stay empty.

        Args:
            progress: told how many are done.

        Raises:
            ArchNetError: the build has no tokenizer, or a setting is out of range.
        """
        tokenizer = open_tokenizer(self.tokenizer_dir)
        found = [""] * len(sources)
        wanted = [i for i, source in enumerate(sources) if source.strip()]
        done = len(sources) - len(wanted)
        batches = token_batches(
            tokenizer, [sources[i] for i in wanted],
            max_length=self.longest, batch_size=SENTENCES, padding=padding_id(self.tokenizer_dir, tokenizer),
        )  # fmt: skip
        for chosen, inputs in batches:
            ids, mask = (torch.from_numpy(inputs[name]) for name in ("input_ids", "attention_mask"))
            rows, lengths = self.generate(ids, mask, search).tolist(), mask.sum(1).tolist()
            for i, row, length in zip(chosen, rows, lengths, strict=True):
                found[wanted[i]] = self.text_of(tokenizer, sources[wanted[i]], length, row)
            done += len(chosen)
            progress(done)
        return found


class Translation(DecoderRun):
    """An encoder-decoder: what is written is a translation."""

    def generate(self, input_ids: Tensor, attention_mask: Tensor, search: Search) -> Tensor:
        """Translate token ids (see `archnet.search.generate`).

        Raises:
            ArchNetError: a setting is out of range.
        """
        beams, length, penalty = search.over(self.settings, self.longest)
        return generate(
            self.stepper, input_ids, attention_mask, self.settings,
            max_length=length, num_beams=beams, length_penalty=penalty,
        )  # fmt: skip

    def text_of(self, tokenizer: Tokenizer, source: str, length: int, row: Sequence[int]) -> str:
        """A row without its first token, its end and what is behind it, as text."""
        end = next((i for i, token in enumerate(row) if i and token in self.settings.ends), len(row))
        words = [token for token in row[1:end] if token != self.settings.pad]
        return str(tokenizer.decode(words, skip_special_tokens=True))


def float_stepper(build: BuildDir) -> IncrementalDecoder:
    """The float original of a build that writes, in PyTorch.

    Raises:
        ArchNetError: it is missing or damaged.
    """
    try:
        network = load_folded(build.float_dir).network
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise ArchNetError(
            f"{build.float_dir} holds no float original that can be read: {error}",
            fix="convert again into a new folder",
        ) from error
    return IncrementalDecoder(NetworkModule(network).eval().requires_grad_(False))


def open_pair(folder: Path, backend: str, *, threads: int | None = None) -> tuple[Backend, Backend]:
    """The encoder and the decoder of a build, in a backend, by its name.

    Where a chip gets the encoder alone, the decoder runs where `host_of` says.
    """
    encoder = open_backend(backend, folder / ENCODER, threads=threads)
    return encoder, open_backend(host_of(folder, backend), folder / DECODER, threads=threads)


def host_of(folder: Path, backend: str) -> str:
    """What runs the decoder of a build: the same backend, or one of the host's if it has the encoder alone.

    It is ONNX Runtime where the build has a file for it, else the reference executor.
    """
    if backend not in ENCODERS_ALONE:
        return backend
    exported = (folder / DECODER / "onnx" / "model.onnx").is_file()
    return "onnxruntime" if exported else "reference"


def open_translation(build: BuildDir, backend: str, *, threads: int | None = None) -> Translation:
    """The integer networks of a build in a backend, by its name (see `open_pair`)."""
    return Translation.open(build, *open_pair(build.path, backend, threads=threads))


def generation_of(build: BuildDir) -> GenerationSettings:
    """How the model of a build searches.

    Raises:
        ArchNetError: the manifest does not say.
    """
    named: Any = build.read_json(build.manifest).get("generation")
    try:
        if isinstance(named, Mapping):
            return GenerationSettings.from_json(named)
    except (KeyError, TypeError):
        pass
    raise ArchNetError(
        f"{build.manifest} does not say how the model searches", fix="convert again into a new folder"
    )
