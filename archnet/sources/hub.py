"""A hub name becomes a local folder: safetensors, JSON and vocabulary files only, never pickles or code."""

from __future__ import annotations

import re
from pathlib import Path

from archnet.errors import ArchNetError
from archnet.sources.source import one_line

ALLOWED = ("*.safetensors", "*.json", "vocab.txt", "merges.txt", "*.model", "*/vocab.txt", "*/merges.txt")
IGNORED = ("onnx/*", "openvino/*", "*.bin.index.json", "original/*")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def looks_like_hub_name(spec: str) -> bool:
    """Whether a text can be "name" or "owner/name" on the hub."""
    return _NAME.fullmatch(spec) is not None and not spec.endswith((".onnx", ".py", ".safetensors", ".json"))


def download(name: str) -> Path:
    """The folder of a hub model, from the local cache when the hub cannot be reached.

    Raises:
        ArchNetError: there is no such model, it is gated, or the hub is out of reach and nothing is cached.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars
    except ImportError as error:
        raise ArchNetError(
            f"no folder {name!r} is here, and fetching a hub model needs the package huggingface_hub",
            fix="check the path, or pip install 'archnet[hf]'",
        ) from error
    disable_progress_bars()
    try:
        return Path(snapshot_download(name, allow_patterns=list(ALLOWED), ignore_patterns=list(IGNORED)))
    except GatedRepoError as error:
        raise ArchNetError(
            f"the hub model {name!r} is only for accounts that accepted its terms",
            fix="accept them on its page and run 'hf auth login', or name a folder that it was saved to",
        ) from error
    except RepositoryNotFoundError as error:
        raise ArchNetError(
            f"there is no folder {name!r} here and no public model of that name on the hub",
            fix="check the spelling of the path or of owner/name",
        ) from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(name, "the hub cannot be reached and no copy of it is cached") from error
    except Exception as error:  # connection errors come as the types of whichever HTTP library is installed
        raise _unreachable(name, f"fetching it from the hub failed ({one_line(error, 160)})") from error


def _unreachable(name: str, why: str) -> ArchNetError:
    return ArchNetError(
        f"there is no folder {name!r} here, and {why}",
        fix="check the path; or connect to the network, or download the model elsewhere and name its folder",
    )
