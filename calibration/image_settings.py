"""How a picture becomes the pixels that a model reads: the settings of preprocessor_config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from archnet.errors import ArchNetError

if TYPE_CHECKING:  # commands that read no picture start without NumPy
    import numpy as np
    from numpy.typing import NDArray

SETTINGS_FILE = "preprocessor_config.json"
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

NEAREST, LANCZOS, BILINEAR, BICUBIC = range(4)
"""Pillow's numbers of its filters, which these files use."""

KEEP_PROPORTIONS = (
    "Bit", "ChineseCLIP", "CLIP", "ConvNeXT", "ConvNext", "Levit", "MobileNet", "MobileViT", "PoolFormer",
)  # fmt: skip
"""What the classes of image processors begin with for which a single number is the shorter side's."""

UNKNOWN = ("include_top", "rescale_offset")
"""Settings (of EfficientNet) that change numbers in a way of their own."""

MODES = ("RGB", "L", "P", "RGBA", "LA", "PA", "1", "CMYK", "YCbCr")
"""Kinds of pictures that become RGB; others (16 or 32 bits a pixel) are not read."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Resize, crop the middle, scale and normalise.

    Attributes:
        height, width: of what the model reads.
        shortest: the shorter side is resized to this, keeping the proportions, before the middle is cut
            out; 0 resizes both sides without cutting.
        resized: height and width that both sides are resized to before the middle is cut out, where that is
            not all of it; (0, 0) elsewhere.
        resample: one of Pillow's filters, by its number.
        factor: pixels of 0 to 255 are multiplied by this.
        mean, deviation: of the channels, after that.
        blue_first: the channels are blue, green and red instead of red, green and blue.
    """

    height: int
    width: int
    shortest: int = 0
    resized: tuple[int, int] = (0, 0)
    resample: int = BILINEAR
    factor: float = 1 / 255
    mean: tuple[float, float, float] = IMAGENET[0]
    deviation: tuple[float, float, float] = IMAGENET[1]
    blue_first: bool = False

    @classmethod
    def read(cls, file: Path) -> Self:
        """Read preprocessor_config.json, of a model folder or as `to_json` wrote it.

        Raises:
            ArchNetError: the file is damaged, or asks for something that is not known.
        """
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
            return cls.parse(config)
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ArchNetError(
                f"{file} cannot be read: {error}", fix="save the image processor again"
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArchNetError(
                f"{file} has a form that is not known: {error}",
                fix="give size (height and width, or shortest_edge), image_mean and image_std as numbers",
            ) from error

    @classmethod
    def parse(cls, config: Mapping[str, Any]) -> Self:
        """From the settings of a transformers image processor."""
        size = _size(config)
        for name in UNKNOWN:
            if config.get(name):
                raise ValueError(f"{name} is {config[name]}")
        mobile = _kind(config).startswith("MobileViT")  # it turns channels round and never normalises
        flags = {name: bool(config.get(name, True)) for name in ("do_rescale", "do_normalize")}
        mean, deviation = config.get("image_mean"), config.get("image_std")
        if mobile or not flags["do_normalize"] or mean is None or deviation is None:
            mean, deviation = (0.0,) * 3, (1.0,) * 3
        factor = float(config.get("rescale_factor", 1 / 255)) if flags["do_rescale"] else 1.0
        red, green, blue = (float(value) for value in mean)
        reds, greens, blues = (float(value) for value in deviation)
        resample = int(config.get("resample", BILINEAR))
        if (
            resample not in range(6)
            or min(reds, greens, blues) <= 0
            or min(size["height"], size["width"]) < 1
        ):
            raise ValueError(f"size {size}, resample {resample}, image_std {deviation}")
        return cls(
            **size,
            resample=resample,
            factor=factor,
            mean=(red, green, blue),
            deviation=(reds, greens, blues),
            blue_first=bool(config.get("do_flip_channel_order", mobile)),
        )

    def to_json(self) -> dict[str, Any]:
        """As an image processor's settings; `parse` reads them back."""
        own = asdict(self)
        whole: dict[str, Any] = {"height": self.height, "width": self.width}
        size: dict[str, Any] = {"size": whole}
        if self.shortest or any(self.resized):
            height, width = self.resized
            before = {"shortest_edge": self.shortest} if self.shortest else {"height": height, "width": width}
            size = {"size": before, "do_center_crop": True, "crop_size": whole}
        return {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            **size,
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": self.factor,
            "do_normalize": True,
            "image_mean": own["mean"],
            "image_std": own["deviation"],
            **({"do_flip_channel_order": True} if self.blue_first else {}),
        }

    def pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Resize and cut a Pillow image: (3, height, width) uint8.

        Raises:
            ValueError: the picture has more than 8 bits a channel.
        """
        if picture.mode not in MODES:
            raise ValueError(f"more than 8 bits a channel (mode {picture.mode}) are not read")
        image = picture.convert("RGB")
        wanted = self.width, self.height
        size = self.resized[::-1] if any(self.resized) else wanted
        if self.shortest:
            scale = self.shortest / min(image.size)
            size = max(1, int(image.width * scale)), max(1, int(image.height * scale))
        if image.size != size:
            image = image.resize(size, self.resample)
        if size != wanted:
            left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
            image = image.crop((left, top, left + self.width, top + self.height))
        import numpy as np

        pixels = np.asarray(image, dtype=np.uint8).transpose(2, 0, 1)
        return np.ascontiguousarray(pixels[::-1] if self.blue_first else pixels)

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (..., 3, height, width) -> what the model reads, float32."""
        import numpy as np

        mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.deviation))
        return (pixels.astype(np.float32) * np.float32(self.factor) - mean) / deviation


def _kind(config: Mapping[str, Any]) -> str:
    """The class of the image processor, by its name of now or of before; "" where none is given."""
    return str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")


def _sides(given: Any) -> tuple[int, int]:
    """Height and width, of a number for both or of an object."""
    return (given, given) if isinstance(given, int) else (int(given["height"]), int(given["width"]))


def _size(config: Mapping[str, Any]) -> dict[str, Any]:
    """Height and width of what the model reads, and what a picture is resized to before it is cut.

    Source: `resize` and `center_crop` of these classes in transformers 5.23.
    """
    kind, given = _kind(config), config.get("size", 224)
    crop = config.get("crop_size") if config.get("do_center_crop", "crop_size" in config) else None
    if isinstance(given, int) and kind.startswith(KEEP_PROPORTIONS):
        given = {"shortest_edge": given}
    if isinstance(given, int) or "shortest_edge" not in given:
        both = _sides(given)
        height, width = _sides(crop) if crop else both
        return {"height": height, "width": width, "resized": (0, 0) if both == (height, width) else both}
    shortest, share = int(given["shortest_edge"]), config.get("crop_pct")
    if crop:
        height, width = _sides(crop)
        if kind.startswith("Levit"):
            shortest = int(256 / 224 * shortest)
        return {"height": height, "width": width, "shortest": int(shortest / share) if share else shortest}
    if shortest < 384:  # ConvNeXt's processor, which ResNets have too: a larger picture, its middle cut out
        return {"height": shortest, "width": shortest, "shortest": int(shortest / float(share or 224 / 256))}
    return {"height": shortest, "width": shortest}
