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

MODES = ("RGB", "L", "P", "RGBA", "LA", "PA", "1", "CMYK", "YCbCr")
"""Kinds of pictures that become RGB; others (16 or 32 bits a pixel) are not read."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """Resize, crop the middle, scale and normalise.

    Attributes:
        height, width: of what the model reads.
        shortest: the shorter side is resized to this, keeping the proportions, before the middle is cut
            out; 0 resizes both sides without cutting.
        resample: one of Pillow's filters, by its number.
        factor: pixels of 0 to 255 are multiplied by this.
        mean, deviation: of red, green and blue, after that.
    """

    height: int
    width: int
    shortest: int = 0
    resample: int = BILINEAR
    factor: float = 1 / 255
    mean: tuple[float, float, float] = IMAGENET[0]
    deviation: tuple[float, float, float] = IMAGENET[1]

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
        size, shortest = _size(config)
        flags = {name: bool(config.get(name, True)) for name in ("do_rescale", "do_normalize")}
        mean, deviation = config.get("image_mean"), config.get("image_std")
        if not flags["do_normalize"] or mean is None or deviation is None:
            mean, deviation = (0.0,) * 3, (1.0,) * 3
        factor = float(config.get("rescale_factor", 1 / 255)) if flags["do_rescale"] else 1.0
        red, green, blue = (float(value) for value in mean)
        reds, greens, blues = (float(value) for value in deviation)
        resample = int(config.get("resample", BILINEAR))
        if resample not in range(6) or min(reds, greens, blues) <= 0 or min(size) < 1:
            raise ValueError(f"size {size}, resample {resample}, image_std {deviation}")
        return cls(*size, shortest, resample, factor, (red, green, blue), (reds, greens, blues))

    def to_json(self) -> dict[str, Any]:
        """As an image processor's settings; `parse` reads them back."""
        own = asdict(self)
        size: dict[str, Any] = {"size": {"height": self.height, "width": self.width}}
        if self.shortest:
            size = {
                "size": {"shortest_edge": self.shortest},
                "do_center_crop": True,
                "crop_size": {"height": self.height, "width": self.width},
            }
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
        }

    def pixels(self, picture: Any) -> NDArray[np.uint8]:
        """Resize and cut a Pillow image: (3, height, width) uint8.

        Raises:
            ValueError: the picture has more than 8 bits a channel.
        """
        if picture.mode not in MODES:
            raise ValueError(f"more than 8 bits a channel (mode {picture.mode}) are not read")
        image = picture.convert("RGB")
        if self.shortest:
            scale = self.shortest / min(image.size)
            size = [max(1, int(side * scale)) for side in image.size]
            image = image.resize(size, self.resample)
            left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
            image = image.crop((left, top, left + self.width, top + self.height))
        elif image.size != (self.width, self.height):
            image = image.resize((self.width, self.height), self.resample)
        import numpy as np

        return np.ascontiguousarray(np.asarray(image, dtype=np.uint8).transpose(2, 0, 1))

    def normalise(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """uint8 (..., 3, height, width) -> what the model reads, float32."""
        import numpy as np

        mean, deviation = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.deviation))
        return (pixels.astype(np.float32) * np.float32(self.factor) - mean) / deviation


def _size(config: Mapping[str, Any]) -> tuple[tuple[int, int], int]:
    """Height and width of what the model reads, and the shortest edge before cutting (0: none is cut)."""
    given = config.get("size", 224)
    if isinstance(given, int):
        given = {"height": given, "width": given}
    crop = config.get("crop_size") if config.get("do_center_crop", "crop_size" in config) else None
    if isinstance(crop, int):
        crop = {"height": crop, "width": crop}
    if "shortest_edge" not in given:
        return (int(given["height"]), int(given["width"])), 0
    shortest = int(given["shortest_edge"])
    if crop:
        return (int(crop["height"]), int(crop["width"])), shortest
    if shortest < 384:  # ConvNeXt's processor, which ResNets have too: a larger picture, its middle cut out
        return (shortest, shortest), int(shortest / float(config.get("crop_pct") or 224 / 256))
    return (shortest, shortest), 0
