"""What the integration tests share: short presets, a model folder, a text file, a target without TVM.

PyTorch takes longer to export a tiny float original than the rest of a tiny conversion takes, so each is
exported once: the other conversions of the same model get the same file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archnet import artifacts
from archnet.atomic import write_bytes
from archnet.build import BuildDir
from archnet.cli import app
from archnet.export.float_onnx import export_float_onnx
from archnet.results import read_metrics
from archnet.sources import Source
from tests.hf_models import make_model_folder
from tests.integration.tiny import short_presets, write_target, write_text

Archnet = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def originals() -> Iterator[None]:
    """The export of a float original that an earlier conversion has made serves the later ones."""
    made: dict[str, bytes] = {}

    def export(source: Source, path: Path) -> None:
        # All that the export reads: the class and its settings, the weights, what stands behind the model.
        named = (type(source.module), source.sha256, source.config, source.output_names, source.images)
        key = repr((*named, source.pooling, source.normalize, source.max_length))
        if key in made:
            write_bytes(path, made[key])
            return
        export_float_onnx(source, path)
        made[key] = path.read_bytes()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(artifacts, "export_float_onnx", export)
        yield


@pytest.fixture(scope="module")
def presets() -> Iterator[None]:
    """Seconds instead of minutes."""
    with short_presets():
        yield


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder of one layer."""
    return make_model_folder(tmp_path_factory.mktemp("model") / "tiny", layers=1, pooling="mean")


@pytest.fixture(scope="session")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text file."""
    return write_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A target profile of the user's own."""
    return write_target(tmp_path_factory.mktemp("target"))


@pytest.fixture
def archnet(monkeypatch: pytest.MonkeyPatch) -> Archnet:
    """Run a command line in this process."""
    monkeypatch.setenv("COLUMNS", "120")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return run


def check_all_equal(archnet: Archnet, build: Path, backends: str) -> None:
    """Validate a build: no integer of any tensor differs between the reference and these backends."""
    checked = archnet("validate", build, "--backend", f"reference,{backends}")
    assert checked.exit_code == 0, checked.output
    tensors = read_metrics(BuildDir.open_finished(build).metrics)["validation"]["tensors"]
    assert tensors
    assert [t["tensor"] for t in tensors if t["max_lsb"]] == []
