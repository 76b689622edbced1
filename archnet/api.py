"""The typed Python interface: convert, inspect, load."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from archnet.backends import open_backend
from archnet.backends.base import Backend, user_inputs
from archnet.build import BuildDir
from archnet.calibration.array_files import holds_arrays
from archnet.calibration.data import load_sentences
from archnet.calibration.image_files import holds_pictures
from archnet.classify import PIXELS, Prediction, classify_files
from archnet.compiling import COMPILE_SECONDS
from archnet.config import (
    NORM_FORMS,
    Bits,
    ConvertSettings,
    HeadWidth,
    check_ffn_width,
    check_length,
    known_norms,
)
from archnet.encode import encode, open_tokenizer, padding_id
from archnet.errors import ArchNetError, nearest
from archnet.events import EventSink, ignore
from archnet.graph import QuantizedGraph
from archnet.job import captured, planned, prepare, stages_of, with_settings
from archnet.language import LanguageRun, decoder_backend
from archnet.method import Method
from archnet.original import OriginalSummary, ask_about, askable
from archnet.parts import is_language, is_translation, part_names
from archnet.pipeline import run
from archnet.plan import Plan
from archnet.preparation import Preparation
from archnet.sources import open_model
from archnet.storage import load_graph
from archnet.targets import load_profile
from archnet.translation import Search, Translation, open_pair

Model = str | os.PathLike[str] | nn.Module
Data = str | os.PathLike[str] | Sequence[str]


def convert(
    model: Model,
    data: Data,
    *,
    target: str,
    bits: str | Bits = "w8a8",
    max_drop: float | None = None,
    out: str | os.PathLike[str],
    preset: str = "balanced",
    seq_len: int = 128,
    seed: int = 0,
    embedding: str | None = None,
    attention: str | None = None,
    norms: str = NORM_FORMS[0],
    head_width: HeadWidth | str | int | None = None,
    ffn_width: int | None = None,
    tokenizer: object | None = None,
    reuse: str | os.PathLike[str] | None = None,
    quantizer: str = "lsq",
    periods: str = "all",
    block_decay: float = 1.0,
    adaptation: str = "none",
    sequences: str = "beams",
    events: EventSink | None = None,
) -> Path:
    """Convert a trained text encoder, encoder-decoder or image classifier into integers for a target.

    Args:
        model: a Hugging Face or sentence-transformers folder, a hub name, "file.py:factory", or a module.
        data: unlabelled text: a file or folder, or the sentences themselves; for an image model a folder
            or .zip of pictures, whose folders' names are not read, or a .npz file with what it reads.
        target: name of a target profile, or the path of one.
        bits: widths of weights and activations, or "auto" for widths that are chosen layer by layer.
        max_drop: with "auto": points of the metric that fewer bits may cost, by an estimate.
        out: the build folder; an unfinished one of the same job is gone on with.
        preset: "fast", "balanced" or "best".
        seq_len: longest sequence in tokens.
        seed: of all random numbers.
        embedding: form of the word embedding; the target's default when None.
        attention: form of attention; the target's default when None.
        norms: form of LayerNorm and RMSNorm: "static", or "corrected" by a small layer behind each.
        head_width: features that each head of attention is narrowed to, such as 16, or "8,16" for queries
            and keys, and for values; as many as it has when None.
        ffn_width: features that each feed-forward part is narrowed to; as many as it has when None.
        tokenizer: for a model that comes without one.
        reuse: a finished build of the same model, data and settings but for bits, target, embedding, form of
            softmax and quantizer: its distillation is taken instead of done again.
        quantizer, periods, block_decay, adaptation, sequences: how it learns (see `archnet.method.Method`).
        events: told of progress.

    Returns:
        The build folder.

    Raises:
        ArchNetError: the model, the data, the target or the folder cannot be used.
    """
    profile = load_profile(target)
    wanted = profile.ask_bits(bits, max_drop)
    form = profile.choose_embedding(embedding)
    attends = profile.choose_attention(attention)
    settings = ConvertSettings(
        profile.name, wanted, preset, seq_len, seed, form, profile.own_sha256(), attends, max_drop,
        norms, Method(quantizer, periods, block_decay, adaptation, sequences),
        _head_width(head_width), ffn_width,
    )  # fmt: skip
    BuildDir.check_place(Path(out))
    if reuse is not None:
        BuildDir.open_finished(Path(reuse))
    stage = Preparation(events or ignore, stages_of(settings))
    stage.step()
    given = _data(data)
    stage.step()
    source = open_model(model, tokenizer=tokenizer)
    if embedding is not None and source.kind == "image":
        raise ArchNetError(
            f"--embedding is of words, which {source.name} does not read", fix="leave --embedding out"
        )
    job = prepare(source, given, profile, with_settings(settings, source, profile), stage.step)
    unit = "pictures" if source.kind == "image" else "sentences"
    stage.finish({"operators": len(job.teacher.sites), unit: len(job.batches)})
    kept = None if reuse is None else Path(reuse)
    return run(job, Path(out), reuse=kept, events=events or ignore)


def inspect(
    model: Model,
    target: str,
    *,
    seq_len: int = 128,
    embedding: str | None = None,
    attention: str | None = None,
    norms: str = NORM_FORMS[0],
    head_width: HeadWidth | str | int | None = None,
    ffn_width: int | None = None,
    bits: str | Bits = "w8a8",
) -> Plan:
    """What every operator of a model would become on a target; no data, no training.

    Raises:
        ArchNetError: the model cannot be opened or captured, or the target is unknown.
    """
    check_length(seq_len)
    check_ffn_width(ffn_width)
    narrower = _head_width(head_width)
    profile = load_profile(target)
    attends = profile.choose_attention(attention)
    wanted = profile.ask_bits(bits, None)
    source = open_model(model, tokenizer_required=False)
    network, _ = captured(source, min(seq_len, source.max_length, profile.max_sequence))
    form = embedding or profile.embedding_forms[0]
    return planned(
        source, network, profile, embedding=form, attention=attends, norms=known_norms(norms), bits=wanted,
        head_width=narrower, ffn_width=ffn_width,
    )  # fmt: skip


def original_on_chip(
    model: Model, chip: str, *, seq_len: int = 128, seconds: float = COMPILE_SECONDS
) -> OriginalSummary:
    """What a chip's own compiler makes of a model unchanged: operators left to the CPU, in float, refused.

    It calibrates with random inputs, so where operators run is told, and no accuracy.

    Args:
        chip: a name of `archnet.targets.chips.CHIPS`, such as "k230".
        seq_len: tokens of a sentence, at most what the model takes.
        seconds: time limit of the compiler.

    Raises:
        ArchNetError: the model cannot be opened or written as ONNX; the chip is unknown, its compiler takes
            no such model, or is not installed.
    """
    check_length(seq_len)
    asked = askable(chip)
    source = open_model(model, tokenizer_required=False)
    return ask_about(source, asked, sequence=min(seq_len, source.max_length), seconds=seconds)


def _head_width(width: HeadWidth | str | int | None) -> HeadWidth | None:
    return HeadWidth.parse(str(width)) if isinstance(width, (str, int)) else width


def _data(data: Data) -> list[str] | Path:
    """The sentences of the data, or the place of its pictures or arrays, which the model says how to read."""
    if isinstance(data, (str, os.PathLike)) and (holds_pictures(data) or holds_arrays(data)):
        return Path(data)
    return _sentences(data)


def _sentences(data: Data) -> list[str]:
    if isinstance(data, (str, os.PathLike)):
        return load_sentences(Path(data), wanted="sentences or pictures")
    sentences = [text.strip() for text in data if text.strip()]
    if not sentences:
        raise ArchNetError("the data holds no sentence", fix="give unlabelled text, a sentence an item")
    return sentences


class Outputs(dict[str, Any]):
    """Outputs by name, as attributes too; integers index them in order, as transformers' outputs do."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no output {name!r}; there are {', '.join(self)}") from None

    def __getitem__(self, key: str | int) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class ArchNet:
    """A converted network that takes the original model's arguments and returns its outputs.

    Args:
        folder: a finished build.
        backend: one of `archnet.backends.BACKENDS`; those of chips run what
            `archnet compile` or `archnet export` made.
        threads: that the backend may use; its own default when None.
    """

    def __init__(self, folder: Path, backend: str = "reference", *, threads: int | None = None) -> None:
        build = BuildDir.open_finished(folder)
        self.folder, self._build = folder, build
        self.manifest: Mapping[str, Any] = build.read_json(build.manifest)
        self.graph: QuantizedGraph = load_graph(folder / part_names(folder)[-1] / "graph")
        self.backend: Backend
        self._writer: Translation | LanguageRun | None = None
        if is_translation(folder):
            encoder, self.backend = open_pair(folder, backend, threads=threads)
            self._writer = Translation.open(build, encoder, self.backend)
        elif is_language(folder):
            self.backend = decoder_backend(folder, backend, threads=threads)
            self._writer = LanguageRun.open(build, None, self.backend)
        else:
            self.backend = open_backend(backend, folder, threads=threads)
        self._tokenizer_dir = build.tokenizer_dir

    def __call__(
        self,
        input_ids: Tensor | NDArray[np.int64] | None = None,
        attention_mask: Tensor | NDArray[np.int64] | None = None,
        token_type_ids: Tensor | NDArray[np.int64] | None = None,
        *,
        pixel_values: Tensor | NDArray[np.float32] | None = None,
        **others: object,
    ) -> Outputs:
        """Run the network.

        Args:
            input_ids: int64 (batch, sequence), torch or NumPy.
            attention_mask: the same shape, 1 for tokens and 0 for padding; all tokens by default.
            token_type_ids: zeros, which is what was folded into the network.
            pixel_values: of an image model instead, float32 as its image processor gives them.
            others: `return_dict=True` and the like are accepted; anything that asks for more is refused.

        Returns:
            float32 outputs by name, torch tensors when `input_ids` or `pixel_values` is one.
        """
        _refuse_others(others)
        self._refuse_writer("called")
        if pixel_values is not None or input_ids is None:
            return self._see(pixel_values, (input_ids, attention_mask, token_type_ids))
        ids = _integers("input_ids", input_ids)
        mask = np.ones_like(ids) if attention_mask is None else _integers("attention_mask", attention_mask)
        if token_type_ids is not None and _integers("token_type_ids", token_type_ids).any():
            raise ArchNetError(
                "token_type_ids other than 0 were folded away by the conversion",
                fix="give single sentences, or leave token_type_ids out",
            )
        outputs = self.backend.run({"input_ids": ids, "attention_mask": mask})
        if isinstance(input_ids, Tensor):
            return Outputs({name: torch.from_numpy(value) for name, value in outputs.items()})
        return Outputs(outputs)

    def _see(self, pixel_values: Tensor | NDArray[np.float32] | None, others: Sequence[object]) -> Outputs:
        names = user_inputs(self.graph)
        if pixel_values is None or any(other is not None for other in others):
            raise ArchNetError(f"the network takes {', '.join(names)}", fix=f"give {', '.join(names)} only")
        values = pixel_values.detach().cpu().numpy() if isinstance(pixel_values, Tensor) else pixel_values
        outputs = self.backend.run({PIXELS: np.asarray(values, np.float32)})
        if isinstance(pixel_values, Tensor):
            return Outputs({name: torch.from_numpy(value) for name, value in outputs.items()})
        return Outputs(outputs)

    def classify(self, files: Sequence[str | os.PathLike[str]], *, batch_size: int = 32) -> list[Prediction]:
        """The likeliest class of each picture, which is resized and normalised as the model was made for."""
        return classify_files(self.backend.run, self._build, files, batch_size=batch_size)

    def encode(self, sentences: Sequence[str], *, batch_size: int = 32) -> NDArray[np.float32]:
        """Embeddings of sentences, (sentences, width) float32, with the build's own tokenizer."""
        self._refuse_writer("used to encode sentences")
        tokenizer = open_tokenizer(self._tokenizer_dir)
        return encode(
            self.backend.run,
            tokenizer,
            sentences,
            max_length=self.graph.max_sequence,
            batch_size=batch_size,
            padding=padding_id(self._tokenizer_dir, tokenizer),
        )

    def generate(
        self,
        input_ids: Tensor | NDArray[np.int64],
        attention_mask: Tensor | NDArray[np.int64] | None = None,
        *,
        num_beams: int | None = None,
        max_length: int | None = None,
        length_penalty: float | None = None,
    ) -> Tensor | NDArray[np.int64]:
        """Translate token ids, or go on with them, as transformers' generate does.

        Args:
            input_ids: int64 (batch, tokens), padded on the right: sources of a translation model, the
                beginnings of texts of a language model.
            attention_mask: the same shape; all tokens by default.
            num_beams: 1 searches greedily; the model's own setting by default.
            max_length: most tokens of a translation with its first one, or of a text with its beginning; what
                the build can by default.
            length_penalty: exponent of the length that scores are divided by (beams only).

        Returns:
            int64 (batch, longest): first token of a translation or beginning of a text, words, end, padding;
            torch when `input_ids` is.
        """
        if self._writer is None:
            raise ArchNetError(
                f"{self.folder} is no model that writes, so it cannot generate",
                fix="call it with input_ids and attention_mask",
            )
        ids = torch.from_numpy(_integers("input_ids", input_ids))
        mask = torch.ones_like(ids)
        if attention_mask is not None:
            mask = torch.from_numpy(_integers("attention_mask", attention_mask))
        found = self._writer.generate(ids, mask, Search(num_beams, max_length, length_penalty))
        return found if isinstance(input_ids, Tensor) else found.numpy()

    def translate(
        self,
        sentences: Sequence[str],
        *,
        num_beams: int | None = None,
        max_length: int | None = None,
        length_penalty: float | None = None,
    ) -> list[str]:
        """Translate sentences with the build's own tokenizer; arguments as in `generate`."""
        if not isinstance(self._writer, Translation):
            raise ArchNetError(
                f"{self.folder} is no translation model, so it cannot translate",
                fix="use complete(texts)" if self._writer else "call it with input_ids and attention_mask",
            )
        return self._writer.write(sentences, Search(num_beams, max_length, length_penalty))

    def complete(
        self,
        texts: Sequence[str],
        *,
        num_beams: int | None = None,
        max_length: int | None = None,
        length_penalty: float | None = None,
    ) -> list[str]:
        """Texts with what a language model writes behind them; arguments as in `generate`."""
        if not isinstance(self._writer, LanguageRun):
            raise ArchNetError(
                f"{self.folder} is no language model, so it cannot go on with a text",
                fix="use translate(sentences)"
                if self._writer
                else "call it with input_ids and attention_mask",
            )
        return self._writer.write(texts, Search(num_beams, max_length, length_penalty))

    def _refuse_writer(self, verb: str) -> None:
        if self._writer is not None:
            does, method = (
                ("translates", "translate(sentences)")
                if isinstance(self._writer, Translation)
                else ("writes", "complete(texts)")
            )
            raise ArchNetError(
                f"{self.folder} {does} and cannot be {verb}",
                fix=f"use generate(input_ids, attention_mask) or {method}",
            )


def load(
    folder: str | os.PathLike[str], backend: str = "reference", *, threads: int | None = None
) -> ArchNet:
    """Open a finished build with one of its backends.

    Raises:
        ArchNetError: the folder is no finished build, or the backend is unknown or not installed.
    """
    return ArchNet(Path(folder), backend, threads=threads)


HARMLESS = {"return_dict": True, "output_attentions": False, "output_hidden_states": False}


def _refuse_others(others: Mapping[str, object]) -> None:
    for name, value in others.items():
        if value is None or (name in HARMLESS and value == HARMLESS[name]):
            continue
        known = ["input_ids", "attention_mask", "token_type_ids", *HARMLESS]
        raise ArchNetError(
            f"the converted network has no argument {name}={value!r}",
            fix=f"leave it out; {nearest(name, known)}",
        )


def _integers(name: str, value: Tensor | NDArray[Any]) -> NDArray[np.int64]:
    array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
    if not np.issubdtype(array.dtype, np.integer) and array.dtype != np.bool_:
        raise ArchNetError(f"{name} has dtype {array.dtype}", fix="give integers (int64)")
    return array.astype(np.int64)
