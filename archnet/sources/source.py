"""The record of an opened model, and the checks that every model passes on its way to it."""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import nn

from archnet.calibration.image_settings import SETTINGS_FILE, ImageSettings
from archnet.errors import ArchNetError
from archnet.generation import GenerationSettings
from archnet.sources.writer import writes_alone

Kind = Literal["text", "image", "translation", "language"]
Pooling = Literal["mean", "cls"]
Size = tuple[int, int, int]
"""Channels, height and width."""

Pixels = ImageSettings | Size | None
"""What is known of an image model's input: how pictures become it, its size alone, or nothing."""

DEFAULT_MAX_LENGTH = 512


@dataclass(frozen=True, eq=False)
class Source:
    """A trained float model and what belongs to it.

    Attributes:
        name: a short name for reports.
        module: eval mode, float32, on the CPU; called as `module(input_ids=..., attention_mask=...)`
            (text: int64, both (batch, sequence)), with `decoder_input_ids` and `decoder_attention_mask` too
            (translation), with these two alone (language), or `module(pixel_values=...)` (image: float32).
        output_names: names of the float tensors that the module returns, in its order; a bare tensor is
            "output", the members of a tuple "output_0", "output_1", ...
        tokenizer: without padding and truncation; None for images and for modules that came without.
        tokenizer_files: files of the source that belong to the tokenizer.
        pooling: how a sentence-transformers folder pools `last_hidden_state`; None elsewhere.
        normalize: whether a sentence-transformers folder ends in L2 normalization.
        max_length: tokens, special ones included, that the model was made for.
        sha256: of the weight file as it is on disk (several files: of their digests; a live module: of its
            tensors).
        kind: "text", "image", "translation" (an encoder-decoder) or "language" (a decoder alone that writes).
        config: the transformers configuration as plain data; empty for other modules.
        notes: what was left out or changed while opening, for the plan and the report.
        generation: how a model that writes searches; None for other models.
        images: how pictures become an image model's pixels, or the size alone of the arrays that it reads;
            None elsewhere, or when it came without.
    """

    name: str
    module: nn.Module
    output_names: tuple[str, ...]
    tokenizer: Tokenizer | None
    tokenizer_files: tuple[Path, ...]
    pooling: Pooling | None
    normalize: bool
    max_length: int
    sha256: str
    kind: Kind
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    generation: GenerationSettings | None = None
    images: Pixels = None

    @property
    def image_size(self) -> Size:
        """Channels, height and width of what an image model reads."""
        return image_size(self.module, self.images)

    def require_images(self) -> ImageSettings:
        """How pictures become pixels; ArchNetError when the model came without that."""
        if not isinstance(self.images, ImageSettings):
            raise ArchNetError(
                f"{self.name} has no {SETTINGS_FILE}, so pictures cannot be fed to it",
                fix="save its image processor beside the weights: "
                "AutoImageProcessor.from_pretrained(name).save_pretrained(folder); or give what it reads as "
                "arrays, a .npz file",
            )
        if self.image_size[0] != 3:
            raise ArchNetError(
                f"{self.name} reads pictures of {self.image_size[0]} channels, not red, green and blue",
                fix="give what it reads as arrays, a .npz file",
            )
        return self.images

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer; ArchNetError when the model came without one."""
        if self.tokenizer is None:
            raise ArchNetError(
                f"{self.name} has no tokenizer, so text cannot be fed to it",
                fix="put tokenizer.json beside the weights, pass tokenizer=... for a live module, or let the "
                "factory return (module, tokenizer)",
            )
        return self.tokenizer

    def save_tokenizer(self, folder: Path) -> None:
        """Write tokenizer.json and copy the small files that belong to it; nothing without a tokenizer."""
        if self.tokenizer is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for file in self.tokenizer_files:
            shutil.copyfile(file, folder / file.name)
        self.tokenizer.save(str(folder / "tokenizer.json"))


def input_kind(module: nn.Module, name: str) -> Kind:
    """What a module takes and does, from `main_input_name` or the names its forward takes."""
    main = getattr(module, "main_input_name", None)
    parameters = inspect.signature(module.forward).parameters
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    if main == "pixel_values" or (main is None and "pixel_values" in parameters):
        return "image"
    if main == "input_ids" or (main is None and ("input_ids" in parameters or takes_any)):
        if "attention_mask" in parameters and "decoder_input_ids" in parameters:
            return "translation"
        if takes_any or "attention_mask" in parameters:
            return "language" if writes_alone(module) else "text"
        raise ArchNetError(
            f"the forward of {name} takes ({', '.join(parameters)}), but no attention_mask",
            fix="give its forward the arguments input_ids and attention_mask (the mask may be ignored)",
        )
    takes = main if main is not None else f"({', '.join(parameters)})"
    raise ArchNetError(
        f"{name} takes {takes}, which is neither input_ids (text) nor pixel_values (images)",
        fix="wrap it in a module with forward(input_ids, attention_mask) or forward(pixel_values)",
    )


def example_inputs(
    module: nn.Module, kind: Kind, *, batch: int = 1, sequence: int = 8, images: Pixels = None
) -> dict[str, torch.Tensor]:
    """Valid arguments for a call: ids of 0 with a full mask, or black images of the configured size."""
    if kind != "image":
        ids = torch.zeros((batch, sequence), dtype=torch.int64)
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        of_decoder = {f"decoder_{name}": value for name, value in inputs.items()}
        return inputs if kind == "text" else of_decoder if kind == "language" else inputs | of_decoder
    return {"pixel_values": torch.zeros((batch, *image_size(module, images)))}


def image_size(module: nn.Module, images: Pixels) -> Size:
    """Channels, height and width: as given, what pictures are resized to, or what the configuration says."""
    if isinstance(images, tuple):
        return images
    config = getattr(module, "config", None)
    channels = int(getattr(config, "num_channels", 3))
    if images is not None:
        return channels, images.height, images.width
    size = getattr(config, "image_size", 224)
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return channels, int(height), int(width)


def named_outputs(result: object) -> dict[str, torch.Tensor]:
    """The float tensors of a module's result by name; names as in `Source.output_names`."""
    if isinstance(result, torch.Tensor):
        return {"output": result}
    if isinstance(result, Mapping):
        found = dict(result)
    elif isinstance(result, (tuple, list)):
        fields = getattr(result, "_fields", [f"output_{i}" for i in range(len(result))])
        found = dict(zip(fields, result, strict=True))
    else:
        found = {}
    return {k: v for k, v in found.items() if isinstance(v, torch.Tensor) and v.is_floating_point()}


def probe_outputs(module: nn.Module, kind: Kind, name: str, images: Pixels = None) -> tuple[str, ...]:
    """Call the module once on a tiny input and name its outputs."""
    inputs = example_inputs(module, kind, images=images)
    try:
        with torch.no_grad():
            outputs = named_outputs(module(**inputs))
    except Exception as error:  # whatever a model's own code raises is the user's to see, in one line
        call = ", ".join(f"{name}=..." for name in inputs)
        raise ArchNetError(
            f"{name} could not be called with {' and '.join(inputs)}: {one_line(error)}",
            fix=f"make module({call}) work on int64 tensors of (batch, sequence)"
            if kind != "image"
            else "make module(pixel_values=...) work on float32 tensors (batch, channels, height, width); "
            "a factory may return (module, (channels, height, width))",
        ) from error
    if not outputs:
        raise ArchNetError(
            f"{name} returns no float tensor", fix="return a tensor, a tuple or a dictionary of tensors"
        )
    return tuple(outputs)


def check_finite(module: nn.Module, name: str) -> None:
    """Refuse NaN and infinite weights, naming the first such tensors."""
    bad = []
    for key, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            count = int((~torch.isfinite(tensor)).sum())
            bad.append(f"{key} ({count} of {tensor.numel()} values)")
    if bad:
        more = f" and {len(bad) - 3} more tensors" if len(bad) > 3 else ""
        raise ArchNetError(
            f"weights of {name} are NaN or infinite: {', '.join(bad[:3])}{more}",
            fix="the training run or the file is damaged: use a checkpoint whose weights are finite",
        )


def hash_tensors(module: nn.Module) -> str:
    """SHA-256 of a module's tensors: name, dtype, shape and bytes of each, by name."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def one_line(error: BaseException, limit: int = 300) -> str:
    """The type and the first line of what an exception says, cut to `limit` characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= limit else text[: limit - 3] + "..."
