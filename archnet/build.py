"""The build folder: its files, its lock, and what may go on in it.

DIR/settings.json says what the folder is being made from, from the first moment; DIR/manifest.json is
written last, so that a folder that has it is finished. Everything between is under DIR/checkpoints until
then. docs/file_formats.md lists the files.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from archnet import __version__, atomic
from archnet.calibration.image_settings import SETTINGS_FILE
from archnet.config import ConvertSettings
from archnet.errors import ArchNetError
from archnet.folder_lock import LOCK_FILE, FolderLock
from archnet.reuse import keep_stages

FORMAT = "archnet-build"
FORMAT_VERSION = 1

_SETTINGS = "settings.json"

_BYTES_PER_PARAMETER = 32
"""Two generations of checkpoint (weights and two moments, float32) and the artifacts."""


def estimate_build_bytes(parameters: int) -> int:
    """Disk space, in bytes, that a conversion of a model with so many parameters needs at its peak."""
    return 32 * 2**20 + _BYTES_PER_PARAMETER * parameters


class BuildDir:
    """A conversion's folder. Use `open_for_convert` or `open_finished`.

    Attributes:
        path: the folder, absolute.
        settings: what it is (being) converted with.
        source_sha256: of the model's weights.
        data_sha256: of the calibration text, or "".
        version: of Arch-Net, that began it.
        resumed: whether an earlier run had begun it.
    """

    def __init__(
        self,
        path: Path,
        settings: ConvertSettings,
        source_sha256: str,
        data_sha256: str,
        lock: FolderLock | None,
    ) -> None:
        self.path = path
        self.settings = settings
        self.source_sha256 = source_sha256
        self.data_sha256 = data_sha256
        self.version = __version__
        self.resumed = False
        self._lock = lock

    @classmethod
    def open_for_convert(
        cls,
        path: Path,
        settings: ConvertSettings,
        source_sha256: str,
        *,
        data_sha256: str = "",
        needed_bytes: int = 32 * 2**20,
    ) -> Self:
        """Begin a conversion in `path`, or go on with the one that was begun there.

        The folder is locked until `close`. When this refuses, the folder is as it was before.

        Args:
            path: new, empty, or begun earlier with the same settings, model and data.
            settings: of this conversion.
            source_sha256: of the model's weights.
            data_sha256: of the calibration text.
            needed_bytes: space that a new conversion needs (see `estimate_build_bytes`).

        Raises:
            ArchNetError: it is another folder, in use, begun with other settings, not writable, or the disk
                has too little space.
        """
        path = Path(path).absolute()
        _refuse_foreign(path)
        created = _make_folder(path)
        lock: FolderLock | None = None
        try:
            lock = FolderLock(path)
            build = cls(path, settings, source_sha256, data_sha256, lock)
            build._begin(needed_bytes)
        except BaseException:
            _undo(path, created, owned=lock is not None)
            if lock is not None:
                lock.release()
            raise
        return build

    @staticmethod
    def check_place(path: Path) -> None:
        """Refuse what `open_for_convert` would refuse of a place, before the time it takes to open a model.

        Raises:
            ArchNetError: it is a file, another folder, or in a place that cannot be written.
        """
        path = Path(path).absolute()
        place = next(p for p in (path, *path.parents) if os.path.exists(p))
        reason = ""
        if place != path and not place.is_dir():
            reason = f"{place} is a file, not a folder"
        elif place.is_dir() and not os.access(place, os.W_OK | os.X_OK):
            reason = f"permission denied for {place}"
        if reason:
            raise ArchNetError(
                f"{path} cannot be written: {reason}", fix="give a place that you may write to"
            )
        _refuse_foreign(path)

    def _begin(self, needed_bytes: int) -> None:
        record = self._record()
        if not self.finished:
            # Of a run that was killed; nobody else writes to an unfinished folder, as the lock is ours.
            _remove_temporaries(self.path)
        if (self.path / _SETTINGS).exists():
            self.resumed = True
            self._compare(_read_record(self.path))
            if self.finished:  # a kill may have left checkpoints after the manifest was written
                self._put_away()
                _remove_temporaries(self.path, f".{self.checkpoints_dir.name}.*")
            return
        free = atomic.free_bytes(self.path)
        if free < needed_bytes:
            raise ArchNetError(
                f"the disk of {self.path} has too little space: the conversion needs about "
                f"{atomic.human_bytes(needed_bytes)}, {atomic.human_bytes(free)} are free",
                fix="free some space, or give a folder on another disk",
            )
        atomic.write_json(self.path / _SETTINGS, record)

    def _record(self) -> dict[str, object]:
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "archnet": __version__,
            "settings": self.settings.to_json(),
            "source_sha256": self.source_sha256,
            "data_sha256": self.data_sha256,
        }

    def _compare(self, record: dict[str, object]) -> None:
        differences = _settings_of(record, self.path).differences(self.settings)
        for field, name in (("source_sha256", "model weights"), ("data_sha256", "data")):
            old, new = str(record.get(field, "")), str(self._record()[field])
            if old != new:
                differences.append(f"{name}: sha256 {old[:12] or 'none'} -> {new[:12] or 'none'}")
        if not self.finished and record.get("archnet") != __version__:
            differences.append(f"archnet version: {record.get('archnet')} -> {__version__}")
        if differences:
            raise ArchNetError(
                f"{self.path} was begun with other settings: {'; '.join(differences)}",
                fix="run it with the old settings to go on, or give another folder",
            )

    @classmethod
    def open_finished(cls, path: Path) -> Self:
        """Open the folder of a finished conversion, without a lock.

        Raises:
            ArchNetError: it is missing, no build folder, or not finished.
        """
        path = Path(path).absolute()
        if not path.is_dir():
            what = "is a file, not a folder" if path.exists() else "does not exist"
            raise ArchNetError(f"{path} {what}", fix="give the folder that `archnet convert --out` wrote")
        if not (path / _SETTINGS).is_file():
            raise ArchNetError(
                f"{path} is no Arch-Net build: it has no {_SETTINGS}",
                fix="give the folder that `archnet convert --out` wrote",
            )
        record = _read_record(path)
        build = cls(
            path,
            _settings_of(record, path),
            str(record.get("source_sha256", "")),
            str(record.get("data_sha256", "")),
            None,
        )
        build.version = str(record.get("archnet"))
        if not build.finished:
            raise ArchNetError(
                f"{path} is not finished: it has no manifest.json",
                fix="run the command that began it again; it goes on where it stopped",
            )
        return build

    @property
    def finished(self) -> bool:
        """Whether the conversion came to its end (the manifest is written last)."""
        return self.manifest.is_file()

    def finish(self, manifest: dict[str, object]) -> None:
        """Write the manifest, which makes the folder a finished one, and delete the checkpoints.

        What `reuse.keep_stages` keeps is kept under DIR/stages.
        """
        self.write_json(self.manifest, manifest)
        self._put_away()

    def _put_away(self) -> None:
        keep_stages(self)
        atomic.remove_tree(self.checkpoints_dir)

    @property
    def manifest(self) -> Path:
        return self.path / "manifest.json"

    @property
    def plan(self) -> Path:
        return self.path / "plan.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def log(self) -> Path:
        return self.path / "log.jsonl"

    @property
    def tokenizer_dir(self) -> Path:
        return self.path / "tokenizer"

    @property
    def image_settings(self) -> Path:
        return self.path / SETTINGS_FILE

    @property
    def graph_dir(self) -> Path:
        return self.path / "graph"

    @property
    def onnx_dir(self) -> Path:
        return self.path / "onnx"

    @property
    def float_dir(self) -> Path:
        """The float original of an encoder-decoder, as it was captured."""
        return self.path / "float"

    @property
    def tvm_dir(self) -> Path:
        return self.path / "tvm"

    @property
    def stages_dir(self) -> Path:
        """Results of stages that conversions to other widths can start from."""
        return self.path / "stages"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    def write_json(self, path: Path, value: object) -> None:
        """Write a JSON file of this folder, whole or not at all."""
        atomic.write_json(self.path / path, value)

    def read_json(self, path: Path) -> dict[str, object]:
        """Read a JSON file of this folder (an object)."""
        return atomic.read_json(self.path / path)

    def require_space(self, needed_bytes: int) -> None:
        """Refuse to begin writing what cannot fit.

        Raises:
            ArchNetError: less than `needed_bytes` is free.
        """
        if atomic.free_bytes(self.path) < needed_bytes:
            raise atomic.disk_full(self.path, needed_bytes)

    def close(self) -> None:
        """Free the lock."""
        if self._lock is not None:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _refuse_foreign(path: Path) -> None:
    if not path.exists():
        return
    if not path.is_dir():
        raise ArchNetError(f"{path} is a file, not a folder", fix="give a new or empty folder")
    try:
        names = {entry.name for entry in path.iterdir()}
    except PermissionError as error:
        raise ArchNetError(
            f"{path} cannot be read: permission denied", fix="give a folder of your own"
        ) from error
    if _SETTINGS in names:
        _read_record(path)
    elif any(name != LOCK_FILE and not name.endswith(atomic.TEMPORARY_MARK) for name in names):
        raise ArchNetError(
            f"{path} is not empty and no Arch-Net build",
            fix="give a new or empty folder; nothing was changed",
        )


def _make_folder(path: Path) -> list[Path]:
    """Make `path` and its parents; returns those that were missing, the deepest first."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    with atomic.disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    return missing


def _undo(path: Path, created: list[Path], *, owned: bool) -> None:
    """Take back the folders that this refused run made; one that somebody else uses by now stays."""
    if created:
        with suppress(OSError):
            if owned:
                (path / LOCK_FILE).unlink(missing_ok=True)
            for place in created:
                place.rmdir()


def _remove_temporaries(path: Path, name: str = ".*") -> None:
    for entry in list(path.rglob(name + atomic.TEMPORARY_MARK)):
        if entry.is_dir() and not entry.is_symlink():
            atomic.remove_tree(entry)
        else:
            entry.unlink(missing_ok=True)


def _read_record(path: Path) -> dict[str, object]:
    record = atomic.read_json(path / _SETTINGS)
    if record.get("format") != FORMAT:
        raise ArchNetError(
            f"{path} is no Arch-Net build: its {_SETTINGS} is another's", fix="give another folder"
        )
    if record.get("version") != FORMAT_VERSION:
        raise ArchNetError(
            f"{path} was written by another version of Arch-Net "
            f"(format {record.get('version')}, this one has {FORMAT_VERSION})",
            fix="use that version, or convert again into a new folder",
        )
    return record


def _settings_of(record: dict[str, object], path: Path) -> ConvertSettings:
    settings = record.get("settings")
    if not isinstance(settings, dict):
        raise ArchNetError(
            f"{path / _SETTINGS} is damaged: no settings in {json.dumps(sorted(record))}",
            fix="convert again into a new folder",
        )
    return ConvertSettings.from_json(settings)
