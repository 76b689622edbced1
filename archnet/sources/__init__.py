"""Loading models: a folder, a hub name, a Python factory or a live module becomes a `Source`."""

from archnet.sources.opening import open_model
from archnet.sources.source import Source

__all__ = ["Source", "open_model"]
