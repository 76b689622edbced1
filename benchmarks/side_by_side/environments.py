"""Isolated Python environments for tools whose requirements cannot stand beside Arch-Net's.

Each is made once, in the cache folder, by the interpreter that runs the comparison: pip, by name and version.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    # needs onnx < 1.20 and onnxsim 0.7.3
    "esp-ppq": ("esp-ppq==1.3.12", "torch==2.13.0"),
    # 40 packages of plots and web pages of its own
    "aimet-onnx": ("aimet-onnx==2.42.0", "torch==2.13.0"),
    # its own converter and a newer transformers
    "litert-torch": (
        "litert-torch==0.10.0",
        "ai-edge-quantizer==0.10.0",
        "torch==2.13.0",
        "transformers==5.24.0",
    ),
}
"""Name -> what is installed."""

INSTALL_SECONDS = 1800


class EnvironmentFailed(Exception):
    """Why an environment could not be made."""


def interpreter(name: str | None, cache: Path) -> Path:
    """The Python of an environment, which is made if it is not there; the running one for None.

    Raises:
        EnvironmentFailed: pip could not install it; its last line is the message.
    """
    if name is None:
        return Path(sys.executable)
    folder = cache / "environments" / name
    python = folder / "bin" / "python"
    done = folder / "installed.json"
    wanted = list(ENVIRONMENTS[name])
    if done.is_file() and json.loads(done.read_text()) == wanted:
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with (folder / "install.log").open("w") as log:
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [str(python), "-m", "pip", "install", *wanted],
        ):
            _run(command, log.fileno(), folder)
    done.write_text(json.dumps(wanted) + "\n")
    return python


def _run(command: list[str], log: int, folder: Path) -> None:
    try:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=INSTALL_SECONDS, check=False
        ).returncode
    except subprocess.TimeoutExpired as error:
        raise EnvironmentFailed(f"its installation took more than {INSTALL_SECONDS} s") from error
    if code != 0:
        lines = [line for line in (folder / "install.log").read_text().splitlines() if line.strip()]
        raise EnvironmentFailed(f"its installation failed: {lines[-1][:200] if lines else code}")


def versions(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Versions of packages in an environment; those that are not there are left out."""
    code = (
        "import importlib.metadata as m, json, sys\n"
        "found = {}\n"
        "for name in sys.argv[1:]:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found))"
    )
    result = subprocess.run(
        [str(python), "-c", code, *packages], capture_output=True, text=True, check=True, timeout=120
    )
    found: dict[str, str] = json.loads(result.stdout)
    return found
