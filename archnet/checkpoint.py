"""Results on disk that are whole or not there: sealed folders, tensors, and the state of random numbers.

A sealed folder has a `seal.json` with the size and SHA-256 of each of its files. It is written under a
temporary name, forced to the disk and renamed, so that a process killed at any moment leaves either the
whole folder or none; a file that was torn later (a power cut, a copy) is found by its hash.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from archnet import atomic
from archnet.errors import ArchNetError

if TYPE_CHECKING:
    import torch

SEAL = "seal.json"

State = dict[str, Any]
"""What JSON holds: counters, names, lists of numbers."""

Tensors = dict[str, "torch.Tensor"]


def write_sealed(
    folder: Path,
    fill: Callable[[Path], None],
    record: Mapping[str, object],
    *,
    needed: int | None = None,
) -> None:
    """Make `folder` from what `fill` writes into an empty one, and seal it together with `record`.

    Args:
        folder: replaced if it is there.
        fill: writes the content into a folder.
        record: JSON, kept in the seal.
        needed: size of the content in bytes, if known, for the message when the disk is full.

    Raises:
        ArchNetError: the disk is full or the folder cannot be written; `folder` is as it was before.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}{atomic.TEMPORARY_MARK}")
    with atomic.disk_errors(folder, needed):
        try:
            unfinished.mkdir(parents=True)
            fill(unfinished)
            files = {}
            for path in sorted(p for p in unfinished.rglob("*") if p.is_file()):
                atomic.sync_file(path)
                name = path.relative_to(unfinished).as_posix()
                files[name] = {"bytes": path.stat().st_size, "sha256": atomic.sha256_file(path)}
            atomic.write_json(unfinished / SEAL, {**record, "files": files})
            atomic.remove_tree(folder)
            os.replace(unfinished, folder)
            atomic.sync_folder(folder.parent)
        finally:
            atomic.remove_tree(unfinished)


def read_seal(folder: Path) -> State | None:
    """The record of a sealed folder, or None when it is missing, unfinished, or a file of it is damaged."""
    try:
        record = atomic.read_json(folder / SEAL)
    except ArchNetError:
        return None
    files = record.get("files")
    if not isinstance(files, dict):
        return None
    for name, entry in files.items():
        path = folder / name
        try:
            if path.stat().st_size != entry["bytes"] or atomic.sha256_file(path) != entry["sha256"]:
                return None
        except (OSError, KeyError, TypeError):
            return None
    return record


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors bit by bit as safetensors; views and shared storage are written as copies."""
    from safetensors.torch import save_file

    seen: set[int] = set()
    own: Tensors = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu()
        shared = tensor.untyped_storage().data_ptr() in seen
        whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
        own[name] = tensor if whole and not shared else tensor.clone().contiguous()
        seen.add(tensor.untyped_storage().data_ptr())
    save_file(own, path)


def load_tensors(path: Path) -> Tensors:
    """Read what `save_tensors` wrote."""
    from safetensors.torch import load_file

    return dict(load_file(path))


def pack(tree: object, tensors: Tensors, name: str = "") -> object:
    """Split a tree (such as an optimizer's state_dict) into tensors and what JSON can hold.

    Args:
        tree: dicts with str or int keys, lists, tuples, tensors, numbers, strings, None.
        tensors: receives the tensors, by their path in the tree.
        name: the path of `tree` itself.

    Returns:
        The tree for JSON; `unpack` gives the original back, with key and sequence types.

    Raises:
        TypeError: something else is in the tree.
    """
    import torch

    if isinstance(tree, torch.Tensor):
        tensors[name] = tree
        return {"tensor": name}
    if isinstance(tree, dict):
        return {"dict": [[key, pack(value, tensors, f"{name}/{key}")] for key, value in tree.items()]}
    if isinstance(tree, list | tuple):
        kind = "list" if isinstance(tree, list) else "tuple"
        return {kind: [pack(value, tensors, f"{name}/{i}") for i, value in enumerate(tree)]}
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{name or 'the tree'} is a {type(tree).__name__}, which a checkpoint cannot hold")


def unpack(packed: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Put back together what `pack` split."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: unpack(value, tensors) for key, value in content}
    values = [unpack(value, tensors) for value in content]
    return tuple(values) if kind == "tuple" else values


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and PyTorch with one 32-bit number."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def random_state() -> tuple[Tensors, State]:
    """The state of those generators, to be put back by `restore_random_state`."""
    import numpy as np
    import torch

    kind, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    tensors = {
        "random/torch": torch.get_rng_state(),
        "random/numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
    }
    for device in range(torch.cuda.device_count()):
        tensors[f"random/cuda/{device}"] = torch.cuda.get_rng_state(device)
    version, numbers, spare = random.getstate()
    state = {"python": [version, list(numbers), spare], "numpy": [kind, position, has_gauss, gauss]}
    return tensors, state


def restore_random_state(tensors: Mapping[str, torch.Tensor], state: State) -> None:
    """Put the generators back to what `random_state` read."""
    import numpy as np
    import torch

    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers), spare))
    kind, position, has_gauss, gauss = state["numpy"]
    keys = tensors["random/numpy"].numpy().astype(np.uint32)
    np.random.set_state((kind, keys, position, has_gauss, gauss))
    torch.set_rng_state(tensors["random/torch"])
    for name, value in tensors.items():
        if name.startswith("random/cuda/"):
            torch.cuda.set_rng_state(value, int(name.rsplit("/", 1)[1]))
