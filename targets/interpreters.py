"""Pythons of other versions on this machine, for toolchains whose packages are there for one version only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from archnet.errors import ArchNetError

_SECONDS = 20.0


def find_python(version: str, purpose: str) -> Path:
    """A Python of this version: on the PATH, or one that pyenv or uv installed.

    Args:
        version: "3.10", or "" for the Python that runs this.
        purpose: what it is for, in words.

    Raises:
        ArchNetError: there is none.
    """
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    if version in ("", running):
        return Path(sys.executable)
    for path in _candidates(version):
        if _is_version(path, version):
            return path
    raise ArchNetError(
        f"{purpose}: its packages are for Python {version}, and none was found here",
        fix=f"install one (uv python install {version}, or pyenv install {version}), and try again",
    )


def _candidates(version: str) -> Iterator[Path]:
    """Where it may be."""
    if found := shutil.which(f"python{version}"):
        yield Path(found)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    uv = Path(os.environ.get("UV_PYTHON_INSTALL_DIR") or Path.home() / ".local" / "share" / "uv" / "python")
    for base, pattern in ((pyenv, f"{version}.*"), (uv, f"cpython-{version}.*")):
        for folder in sorted(base.glob(pattern), reverse=True):
            yield folder / "bin" / f"python{version}"


def _is_version(path: Path, version: str) -> bool:
    """Whether it starts and is of that version: pyenv puts stand-ins on the PATH that only print an error."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [str(path), "-c", ask], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == version
