"""The main job on tiny real model folders: convert, load, run and compare, for every embedding form."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from transformers import AutoModel

import archnet
from archnet import ArchNetError
from archnet.atomic import sha256_file
from archnet.encode import open_tokenizer
from archnet.validate import validate
from tests.hf_families import HIDDEN
from tests.hf_models import SENTENCES, make_model, make_model_folder, make_tokenizer
from tests.integration.conftest import Archnet
from tests.integration.tiny import SEQUENCE, text

pytestmark = pytest.mark.usefixtures("presets")

BACKENDS = ("reference", "onnxruntime", "tvm")


@dataclass(frozen=True)
class Form:
    """One kind of conversion.

    Attributes:
        embedding: asked for; None takes the target's default.
        pooling: of a sentence encoder; None is a plain encoder.
    """

    target: str
    embedding: str | None
    pooling: str | None
    bits: str = "w8a8"


FORMS = {
    "one-hot": Form("archnet", None, "mean"),
    "host": Form("archnet", "host", None),
    "gather": Form("onnxruntime", None, None),
    "code": Form("tvm", "code", "cls"),
}


@dataclass(frozen=True)
class Build:
    """A finished conversion and what it was made from."""

    name: str
    path: Path
    model: Path

    @property
    def form(self) -> Form:
        return FORMS[self.name]


@pytest.fixture(scope="module", params=FORMS)
def build(request: pytest.FixtureRequest, presets: None, tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Every form, converted once."""
    form = FORMS[request.param]
    place = tmp_path_factory.mktemp(request.param)
    model = make_model_folder(place / "model", layers=1, pooling=form.pooling)
    out = archnet.convert(
        model,
        text(),
        target=form.target,
        bits=form.bits,
        out=place / "build",
        preset="fast",
        seq_len=SEQUENCE,
        embedding=form.embedding,
    )
    return Build(request.param, out, model)


def tokens(batch: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random ids with padding at the end of all rows but the first."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(1, length + 1, (batch, 1))).astype(np.int64)
    mask[0] = 1
    ids = rng.integers(5, make_tokenizer("bert").get_vocab_size(), (batch, length)) * mask
    return {"input_ids": ids.astype(np.int64), "attention_mask": mask}


def test_the_build_folder_is_whole_and_says_what_it_is(build: Build) -> None:
    for name in ("plan.json", "metrics.json", "log.jsonl", "report.html", "tokenizer/tokenizer.json"):
        assert (build.path / name).is_file(), name
    assert not (build.path / "checkpoints").exists()
    assert not list(build.path.rglob("*.archnet-tmp"))
    manifest = json.loads((build.path / "manifest.json").read_text())
    assert manifest["source"]["sha256"] == sha256_file(build.model / "model.safetensors")
    assert manifest["settings"]["target"] == build.form.target
    assert manifest["settings"]["embedding"] == build.name
    shapes = {output["name"]: output["shape"] for output in manifest["outputs"]}
    states, row = ["batch", "sequence", HIDDEN], ["batch", HIDDEN]
    pooled = "pooler_output" if build.form.pooling is None else "sentence_embedding"
    assert shapes == {"last_hidden_state": states, pooled: row}
    metrics = json.loads((build.path / "metrics.json").read_text())
    assert {"graph/graph.safetensors", "onnx/model.onnx"} <= set(metrics["sizes"])


def test_nothing_is_left_that_the_target_has_not(build: Build) -> None:
    graph = archnet.load(build.path).graph
    operators = Counter(str(node.op) for node in graph.nodes)
    model = onnx.load(build.path / "onnx" / "model.onnx")
    nodes = Counter(node.op_type for node in model.graph.node)
    for gone in ("LayerNorm", "LayerNormalization", "Gelu", "GELU", "Erf", "Tanh"):
        assert operators[gone] == nodes[gone] == 0
    assert operators["Gather"] == (1 if build.name == "gather" else 0)
    if build.form.target == "archnet":
        # A pooler selects the first token, which ONNX calls a Gather of one constant index.
        assert nodes["Gather"] <= operators["Select"]
    for name, spec in graph.tensors.items():
        assert spec.dtype in ("int8", "uint8", "int32", "int64"), name


def test_it_is_like_the_original_and_every_backend_has_the_reference_s_integers(build: Build) -> None:
    result = validate(build.path, backends=BACKENDS)
    assert [score.backend for score in result.scores] == list(BACKENDS)
    for score in result.scores:
        assert score.cosine is not None
        assert score.cosine > 0.3  # an untrained one has about 0; seconds of training are not more
    emulated = {(place.backend, place.node) for place in result.emulated}
    assert {backend for backend, _ in emulated} <= {"onnxruntime"}
    seen = Counter(tensor.backend for tensor in result.tensors)
    assert seen["onnxruntime"] > 10
    assert seen["tvm"] > 10
    for tensor in result.tensors:
        if tensor.backend == "tvm" or not emulated:
            assert tensor.differing == 0, tensor
        elif tensor.scope == "layer":
            # A tiny tensor has too few elements for a share of a thousandth: one may differ.
            assert tensor.max_lsb <= 1, tensor
            assert tensor.differing <= max(1, tensor.elements // 1000), tensor


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 7), (3, 9), (2, SEQUENCE)])
def test_any_batch_and_length(build: Build, batch: int, length: int) -> None:
    inputs = tokens(batch, length, seed=length)
    expected = archnet.load(build.path)(**inputs)
    assert expected.last_hidden_state.shape == (batch, length, HIDDEN)
    assert all(np.isfinite(value).all() for value in expected.values())
    found = archnet.load(build.path, backend="tvm")(**inputs)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_it_takes_and_returns_what_the_original_does(build: Build) -> None:
    network = archnet.load(build.path, backend="onnxruntime")
    arrays = tokens(2, 8)
    tensors = {name: torch.from_numpy(value) for name, value in arrays.items()}
    plain, wrapped = network(**arrays), network(**tensors, token_type_ids=torch.zeros(2, 8, dtype=torch.long))
    for name, value in plain.items():
        assert isinstance(wrapped[name], torch.Tensor)
        np.testing.assert_array_equal(wrapped[name].numpy(), value)
    original = AutoModel.from_pretrained(build.model)(**tensors, return_dict=True)
    taken = network(**tensors, return_dict=True, output_attentions=False, head_mask=None)
    if build.form.pooling is None:
        assert list(taken) == list(original)
        assert torch.equal(taken[0], taken.last_hidden_state)
    for name in set(taken) & set(original):
        assert taken[name].shape == original[name].shape
        assert taken[name].dtype == original[name].dtype


def test_a_missing_mask_means_no_padding(build: Build) -> None:
    network = archnet.load(build.path)
    ids = tokens(1, 6)["input_ids"]
    one = network(ids)
    other = network(input_ids=ids, attention_mask=np.ones_like(ids))
    np.testing.assert_array_equal(one.last_hidden_state, other.last_hidden_state)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"token_type_ids": np.ones((1, 4), np.int64)}, "token_type_ids other than 0 were folded away"),
        ({"output_hidden_states": True}, "no argument output_hidden_states=True"),
        ({"inputs_embeds": np.zeros((1, 4, HIDDEN))}, "no argument inputs_embeds="),
        ({"input_ids": np.ones((1, 4), np.float32)}, "input_ids has dtype float32"),
        ({"input_ids": np.full((1, 4), 10**6)}, "holds 1000000 .. 1000000, outside 0 .. "),
        ({"attention_mask": np.ones((1, 5), np.int64)}, "sequence is 4 in 'input_ids' and 5 in"),
        (dict.fromkeys(["input_ids", "attention_mask"], np.ones((1, SEQUENCE + 1), np.int64)), "at most 32"),
    ],
)
def test_arguments_that_mean_something_else_are_refused(
    build: Build, changes: dict[str, np.ndarray], problem: str
) -> None:
    with pytest.raises(ArchNetError) as caught:
        archnet.load(build.path)(**{**tokens(1, 4), **changes})
    assert problem in caught.value.problem
    assert caught.value.fix


def test_sentences_become_vectors(build: Build) -> None:
    network = archnet.load(build.path)
    rows = network.encode(list(SENTENCES), batch_size=3)
    assert rows.shape == (len(SENTENCES), HIDDEN)
    ids = open_tokenizer(build.path / "tokenizer").encode(SENTENCES[0]).ids
    outputs = network(np.array([ids]))
    if build.form.pooling is None:
        np.testing.assert_allclose(outputs.last_hidden_state[0].mean(axis=0), rows[0], atol=0.1)
    else:
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(outputs.sentence_embedding[0], rows[0], atol=0.05)
    turned = network.encode(list(reversed(SENTENCES)), batch_size=3)
    assert turned.shape == rows.shape
    assert ((turned[::-1] * rows).sum(axis=1) > 0.99 * (rows * rows).sum(axis=1)).all()


def test_a_live_module_is_converted_and_left_as_it_was(tmp_path: Path, target: Path) -> None:
    module = make_model("bert", layers=1).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    out = archnet.convert(
        module,
        text(),
        target=str(target),
        out=tmp_path / "build",
        preset="fast",
        seq_len=SEQUENCE,
        tokenizer=make_tokenizer("bert"),
    )
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    inputs = {name: torch.from_numpy(value) for name, value in tokens(2, 9).items()}
    with torch.no_grad():
        original = module.eval()(**inputs).last_hidden_state
    found = archnet.load(out, backend="onnxruntime")(**inputs).last_hidden_state
    valid = inputs["attention_mask"].bool()
    assert torch.cosine_similarity(found[valid], original[valid], dim=-1).mean() > 0.25
    assert not (out / "tvm").exists()


def test_a_live_module_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="has no tokenizer") as caught:
        archnet.convert(make_model("bert", layers=1), text(), target="archnet", out=tmp_path / "build")
    assert "tokenizer=" in caught.value.fix
    assert not (tmp_path / "build").exists()


def test_a_factory_in_a_file(archnet: Archnet, tmp_path: Path, sentences: Path, target: Path) -> None:
    make_model_folder(tmp_path / "weights", layers=1)
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "from transformers import AutoModel\n"
        "HERE = Path(__file__).parent / 'weights'\n"
        "def make():\n"
        "    return AutoModel.from_pretrained(HERE), HERE / 'tokenizer.json'\n"
    )
    out = tmp_path / "build"
    result = archnet(
        *("convert", f"{tmp_path / 'mine.py'}:make", "--data", sentences, "--target", target),
        *("--bits", "w8a8", "--out", out, "--preset", "fast", "--seq-len", SEQUENCE),
    )
    assert result.exit_code == 0, result.output
    assert "[1/5] prepare" in result.output
    assert f"archnet validate {out}" in result.output
    assert (out / "onnx" / "model.onnx").is_file()


@pytest.mark.parametrize(
    "few",
    [["A man plays.", "Two dogs run in the park.", "No."], ["你好世界", "这是一个句子", "今天天气很好"]],
    ids=["three sentences", "another script"],
)
def test_little_or_strange_text_never_gives_nan(
    tmp_path: Path, model: Path, target: Path, few: list[str]
) -> None:
    told: list[object] = []
    out = archnet.convert(
        model,
        few,
        target=str(target),
        out=tmp_path / "build",
        preset="fast",
        seq_len=SEQUENCE,
        events=told.append,
    )
    assert ("unknown to the model's tokenizer" in str(told)) == (few[0] == "你好世界")
    assert np.isfinite(archnet.load(out).encode([*few, "A cat sleeps."])).all()
    metrics = json.loads((out / "metrics.json").read_text())
    assert all(np.isfinite(point["loss"]) for point in metrics["training"])
