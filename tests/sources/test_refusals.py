"""Models that cannot be used: one error each, naming where, what and how to fix."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from archnet.errors import ArchNetError
from archnet.sources import open_model
from tests.hf_models import make_model_folder
from tests.hf_writers import make_translation_folder

Damage = Callable[[Path], None]


def refusal(spec: Any, **options: Any) -> ArchNetError:
    with pytest.raises(ArchNetError) as caught:
        open_model(spec, **options)
    assert "\n" not in caught.value.problem
    assert caught.value.fix
    return caught.value


def set_config(**values: Any) -> Damage:
    def damage(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps(config))

    return damage


def edit_weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        weights = {k: v.clone() for k, v in load_file(folder / "model.safetensors").items()}
        edit(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return damage


def replace(name: str, content: bytes | None) -> Damage:
    def damage(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return damage


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02}q\x00.")


def poison(weights: dict[str, torch.Tensor]) -> None:
    weights["encoder.layer.0.output.dense.weight"][0, 0] = float("nan")
    weights["encoder.layer.1.output.dense.bias"][:2] = float("inf")


SHORT = b"\x00" * 4
BAD_HEADER = struct.pack("<Q", 10**12) + b"{}"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("damage", "problem", "fix"),
    [
        pytest.param(replace("config.json", None), "has no config.json", "save_pretrained", id="no-config"),
        pytest.param(replace("config.json", b'{"a": 1,}'), "line 1, column", "mend", id="config-no-json"),
        pytest.param(replace("config.json", b"\xff\xfe"), "it is not text", "again", id="config-binary"),
        pytest.param(replace("config.json", b"[1]"), "holds no JSON object", "again", id="config-list"),
        pytest.param(
            replace("config.json", b"{}"), "does not name its model_type", "config.json", id="no-type"
        ),
        pytest.param(set_config(model_type="bertt"), "no architecture 'bertt'", "'bert'", id="unknown-type"),
        pytest.param(set_config(auto_map={"AutoModel": "m.M"}), "Python code", "built in", id="remote-code"),
        pytest.param(
            set_config(quantization_config={"quant_method": "gptq"}), "gptq", "float", id="quantized"
        ),
        pytest.param(
            set_config(architectures=["BertLMHeadModel"]),
            "lack 6 tensors",
            "config.json",
            id="no-output-layer",
        ),
        pytest.param(set_config(intermediate_size=48), "intermediate.dense", "belongs to", id="shapes"),
        pytest.param(set_config(num_hidden_layers=3), "lack 16 tensors", "belongs to", id="more-layers"),
        pytest.param(set_config(num_attention_heads=5), "cannot build the bert model", "sizes", id="heads"),
        pytest.param(set_config(hidden_act="gelluu"), "cannot build the bert model", "config.json", id="act"),
        pytest.param(
            replace("model.safetensors", None), "no model.safetensors", "save_pretrained", id="no-weights"
        ),
        pytest.param(replace("model.safetensors", b""), "is empty", "again", id="empty-weights"),
        pytest.param(replace("model.safetensors", SHORT), "(4 bytes) is no complete", "again", id="short"),
        pytest.param(replace("model.safetensors", BAD_HEADER), "is no complete", "again", id="bad-header"),
        pytest.param(replace("model.safetensors", LFS), "Git LFS pointer", "git lfs pull", id="lfs"),
        pytest.param(truncate, "is no complete safetensors file", "again", id="truncated"),
        pytest.param(only_pickle, "pytorch_model.bin), which can run any code", "save_file", id="pickle"),
        pytest.param(edit_weights(poison), "output.dense.weight (1 of 2048 values)", "finite", id="nan"),
        pytest.param(
            edit_weights(lambda w: w.pop("encoder.layer.1.attention.output.dense.weight")),
            "lack 1 tensors of its architecture: encoder.layer.1.attention.output.dense.weight",
            "save the whole model",
            id="missing-tensor",
        ),
        pytest.param(
            replace("tokenizer.json", None), "has no tokenizer.json", "AutoTokenizer", id="no-tokenizer"
        ),
        pytest.param(
            replace("tokenizer.json", b"{}"), "no tokenizer that can be read", "again", id="bad-tokenizer"
        ),
    ],
)
def test_damaged_folder(tmp_path: Path, damage: Damage, problem: str, fix: str) -> None:
    folder = make_model_folder(tmp_path / "tiny")
    damage(folder)
    before = {f: f.stat().st_mtime_ns for f in folder.iterdir()}
    error = refusal(folder)
    assert problem in error.problem
    assert fix in error.fix
    assert str(folder) in error.problem
    assert {f: f.stat().st_mtime_ns for f in folder.iterdir()} == before


def set_generation(**values: Any) -> Damage:
    def damage(folder: Path) -> None:
        file = folder / "generation_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | values))

    return damage


def sentencepiece_only(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "source.spm").write_bytes(b"no model")
    (folder / "vocab.json").write_text('{"a": 0}')


@pytest.mark.parametrize(
    ("damage", "problem", "fix"),
    [
        pytest.param(replace("tokenizer.json", None), "has no tokenizer.json", "AutoTokenizer", id="none"),
        pytest.param(replace("tokenizer.json", b""), "no tokenizer that can be read", "again", id="empty"),
        pytest.param(
            replace("tokenizer.json", b'{"model": {"type": "BPE"'), "no tokenizer that can be", "again",
            id="truncated",
        ),
        pytest.param(sentencepiece_only, "has no tokenizer.json", "library tokenizers", id="sentencepiece"),
        pytest.param(
            set_generation(decoder_start_token_id=58100), "its decoder_start_token_id is 58100",
            "generation_config.json", id="start",
        ),
        pytest.param(
            set_generation(eos_token_id=[2, 999]), "words, but its eos_token_id is 999",
            "generation_config.json", id="end",
        ),
        pytest.param(
            set_generation(pad_token_id=-1), "its pad_token_id is -1", "generation_config.json", id="pad"
        ),
    ],
)  # fmt: skip
def test_damaged_translation_folder(tmp_path: Path, damage: Damage, problem: str, fix: str) -> None:
    folder = make_translation_folder(tmp_path / "tiny", layers=1)
    damage(folder)
    error = refusal(folder)
    assert problem in error.problem
    assert fix in error.fix
    assert "tiny" in error.problem


def test_missing_tokenizer_is_no_matter_when_none_is_needed(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "tiny")
    (folder / "tokenizer.json").unlink()
    source = open_model(folder, tokenizer_required=False)
    with pytest.raises(ArchNetError, match=r"tiny has no tokenizer"):
        source.require_tokenizer()


def test_missing_shard(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "tiny")
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "lacks 2 of its 2 weight files: model-1.safetensors" in refusal(folder).problem


@pytest.mark.parametrize(
    ("modules", "problem"),
    [
        (["Transformer", "Pooling", "Dense", "Normalize"], "the module Dense is not supported"),
        (["Transformer", "Normalize", "Pooling"], "this order is not supported"),
        (["WordEmbeddings", "Pooling"], "the module WordEmbeddings is not supported"),
    ],
)
def test_sentence_transformer_chain(tmp_path: Path, modules: list[str], problem: str) -> None:
    folder = make_model_folder(tmp_path / "tiny", pooling="mean")
    entries = [
        {"idx": i, "path": "", "type": f"sentence_transformers.models.{m}"} for i, m in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    assert problem in refusal(folder).problem


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ({"pooling_mode_max_tokens": True}, "pools by max_tokens"),
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "pools by mean_tokens and cls_token",
        ),
        ({"pooling_mode": "lasttoken"}, "pools by lasttoken"),
    ],
)
def test_pooling_modes(tmp_path: Path, config: dict[str, Any], problem: str) -> None:
    folder = make_model_folder(tmp_path / "tiny", pooling="mean")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    assert problem in refusal(folder).problem


def test_wrong_path_suggests_its_sibling(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "minilm")
    error = refusal(str(tmp_path / "minilmm"))
    assert f"there is no model folder at {tmp_path / 'minilmm'}" in error.problem
    assert error.fix == f"did you mean {folder}?"
    error = refusal(str(tmp_path / "nothing" / "like" / "it"))
    assert error.fix == f"{tmp_path} exists, but not 'nothing' in it; check the spelling"


def test_folder_around_the_model(tmp_path: Path) -> None:
    make_model_folder(tmp_path / "outer" / "inner")
    assert refusal(tmp_path / "outer").fix == "name the folder inside it that has one: inner"


@pytest.mark.parametrize(
    ("name", "problem", "fix"),
    [
        ("m.onnx", "an ONNX model, which a later version will read", "Hugging Face folder"),
        ("m.py", "no function in it is named", "m.py:factory"),
        ("m.pt", "is a pickle", "save_file"),
        ("model.safetensors", "is one file of a model", "name the folder"),
        ("m.txt", "is a file, not a model folder", "hub name"),
    ],
)
def test_files(tmp_path: Path, name: str, problem: str, fix: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    error = refusal(tmp_path / name)
    assert problem in error.problem
    assert fix in error.fix


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    asked = []

    def unreachable(name: str, **options: Any) -> str:
        asked.append((name, options["allow_patterns"]))
        raise LocalEntryNotFoundError("no connection")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.chdir(tmp_path)
    error = refusal("someone/some-model")
    assert "no folder 'someone/some-model' here, and the hub cannot be reached" in error.problem
    (tmp_path / "some-models").mkdir()
    assert refusal("some-model").fix.startswith("did you mean some-models? Else check the path")
    assert asked[0][0] == "someone/some-model"
    assert not any("bin" in pattern or pattern.endswith(".py") for pattern in asked[0][1])


def test_hub_name_is_opened_from_what_was_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub

    folder = make_model_folder(tmp_path / "cache" / "snapshots" / ("0" * 40), pooling="mean")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **options: str(folder))
    monkeypatch.chdir(tmp_path)
    assert open_model("someone/some-model").name == "someone/some-model"


FACTORY = """
import torch
from torch import nn
def encoder(): return nn.Linear(2, 2)
def number(): return 7
def nothing(): pass
def needs(argument): return argument
def fails():
    raise RuntimeError("first line\\nsecond line")
def leaves():
    raise SystemExit(3)
def no_mask():
    class Net(nn.Module):
        def forward(self, input_ids): return input_ids
    return Net()
def breaks():
    class Net(nn.Module):
        def forward(self, input_ids, attention_mask): return input_ids @ torch.ones(3, 3)
    return Net()
def silent():
    class Net(nn.Module):
        def forward(self, input_ids, attention_mask): return "text"
    return Net()
def odd_tokenizer():
    class Net(nn.Module):
        def forward(self, input_ids, attention_mask): return input_ids.float()
    return Net(), 5
constant = 5
"""


@pytest.mark.parametrize(
    ("name", "problem", "fix"),
    [
        ("encodr", "has no function 'encodr'", "did you mean 'encoder'?"),
        ("constant", "constant of", "define a function"),
        ("number", "returned a int, not a torch.nn.Module", "(module, tokenizer)"),
        ("nothing", "returned None", "return the module"),
        ("needs", "needs() of", "without arguments"),
        ("fails", "failed at line 9: RuntimeError: first line", "without arguments"),
        ("leaves", "failed at line 11: SystemExit: 3", "without arguments"),
        ("encoder", "encoder takes (input), which is neither", "forward(input_ids, attention_mask)"),
        ("no_mask", "but no attention_mask", "attention_mask"),
        ("breaks", "could not be called with input_ids and attention_mask: RuntimeError", "int64"),
        ("silent", "returns no float tensor", "tensor"),
        ("odd_tokenizer", "a builtins.int is no tokenizer", "tokenizers.Tokenizer"),
        ("not a name", "names no function", "name of a function"),
    ],
)
def test_factory(tmp_path: Path, name: str, problem: str, fix: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(FACTORY)
    error = refusal(f"{file}:{name}")
    assert problem in error.problem
    assert fix in error.fix


def test_factory_file_that_does_not_run(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = 1\nimport not_installed_anywhere\n")
    assert f"{file} could not be run at line 2: ModuleNotFoundError" in refusal(f"{file}:make").problem
    file.write_text("x = 1\ndef make(:\n")
    assert f"{file} could not be run at line 2: SyntaxError" in refusal(f"{file}:make").problem
    assert refusal(f"{tmp_path / 'mime.py'}:make").fix == f"did you mean {file}?"


def test_live_module_with_nan() -> None:
    module = nn.Embedding(4, 4)
    module.weight.data[1, 1] = float("nan")
    assert "weights of Embedding are NaN or infinite: weight (1 of 16 values)" in refusal(module).problem
