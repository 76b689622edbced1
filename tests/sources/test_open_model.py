"""Opening models that are as they should be: the numbers are the original's."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from archnet.sources import open_model
from tests.hf_families import FAMILIES, TEXT_FAMILIES
from tests.hf_models import SENTENCES, make_model, make_model_folder, make_wordpiece_tokenizer
from tests.hf_writers import END, PAD, make_language_folder, make_language_model, make_language_tokenizer


class TwoNumbers(nn.Module):
    """A plain module that is no transformers model."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.table(input_ids) * attention_mask[..., None]
        return hidden, hidden.mean(1)


@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_folder_gives_the_saved_model(tmp_path: Path, family: str) -> None:
    original = make_model(family, seed=3)
    source = open_model(make_model_folder(tmp_path / "tiny", family, seed=3))
    ids = torch.randint(5, 150, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        expected = original(input_ids=ids, attention_mask=mask).last_hidden_state
        found = source.module(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (source.kind, source.pooling, source.normalize, source.name) == ("text", None, False, "tiny")
    assert source.output_names[0] == "last_hidden_state"
    assert not source.module.training
    assert {p.dtype for p in source.module.parameters()} == {torch.float32}
    assert source.config["model_type"] == FAMILIES[family].model_type
    assert source.sha256 == hashlib.sha256((tmp_path / "tiny" / "model.safetensors").read_bytes()).hexdigest()


def test_positions_before_the_padding_index_do_not_count(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "tiny", "roberta")
    (folder / "tokenizer_config.json").unlink()
    source = open_model(folder)
    assert source.config["max_position_embeddings"] == 66
    assert source.max_length == 64
    ids = torch.full((1, source.max_length), 7)
    source.module(input_ids=ids, attention_mask=torch.ones_like(ids))


@pytest.mark.parametrize("live", [False, True], ids=["folder", "module"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_language_models_give_their_logits(tmp_path: Path, family: str, live: bool) -> None:
    original = make_language_model(family, seed=3)
    folder = make_language_folder(tmp_path / "tiny", family, seed=3)
    source = open_model(original, tokenizer=make_language_tokenizer()) if live else open_model(folder)
    assert (source.kind, source.output_names) == ("language", ("logits",))
    assert source.generation is not None
    assert (source.generation.start, source.generation.ends, source.generation.pad) == (0, (END,), PAD)
    ids = torch.randint(5, 150, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    with torch.no_grad():
        found = source.module(decoder_input_ids=ids, decoder_attention_mask=mask)["logits"]
        wanted = original(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(found[mask.bool()], wanted[mask.bool()], atol=1e-5, rtol=1e-5)


def test_image_folder(tmp_path: Path) -> None:
    source = open_model(make_model_folder(tmp_path / "tiny", "vit"))
    assert (source.kind, source.tokenizer) == ("image", None)
    assert source.output_names == ("last_hidden_state", "pooler_output")


def test_classifier_keeps_its_logits(tmp_path: Path) -> None:
    source = open_model(make_model_folder(tmp_path / "tiny", "bert", labels=3))
    assert source.output_names == ("logits",)


@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", False)])
def test_sentence_transformer_folder(tmp_path: Path, pooling: str, normalize: bool) -> None:
    folder = make_model_folder(tmp_path / "tiny", pooling=pooling, normalize=normalize, max_length=40)
    source = open_model(folder)
    assert (source.pooling, source.normalize, source.max_length) == (pooling, normalize, 40)


def test_sentence_transformer_lower_cases_when_its_settings_say_so(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "tiny", "roberta", pooling="mean")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 32, "do_lower_case": true}')
    tokenizer = open_model(folder).require_tokenizer()
    assert tokenizer.encode("A MAN").ids == tokenizer.encode("a man").ids


def test_tokenizer_neither_pads_nor_cuts(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "tiny")
    padding = make_wordpiece_tokenizer()
    padding.enable_padding(length=60)
    padding.enable_truncation(5)
    padding.save(str(folder / "tokenizer.json"))
    source = open_model(folder)
    ids = source.require_tokenizer().encode(SENTENCES[0]).ids
    assert ids == make_wordpiece_tokenizer().encode(SENTENCES[0]).ids
    source.save_tokenizer(tmp_path / "build")
    assert sorted(f.name for f in (tmp_path / "build").iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_vocabulary_file_alone_is_enough(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "tiny")
    tokenizer = make_wordpiece_tokenizer()
    vocabulary = sorted(tokenizer.get_vocab(), key=lambda token: tokenizer.get_vocab()[token])
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "BertTokenizer", "do_lower_case": true}'
    )
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    found = open_model(folder).require_tokenizer()
    assert found.encode(SENTENCES[0]).ids == tokenizer.encode(SENTENCES[0]).ids


def test_pooler_that_was_never_saved_is_taken_out(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_model_folder(tmp_path / "tiny")
    weights = load_file(folder / "model.safetensors")
    kept = {k: v.clone() for k, v in weights.items() if not k.startswith("pooler.")}
    assert len(kept) == len(weights) - 2
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    source = open_model(folder)
    assert source.output_names == ("last_hidden_state",)
    assert source.notes == ("the weights have no pooler, so there is no pooler_output",)


def test_head_of_another_task_is_left_out_with_a_note(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_model_folder(tmp_path / "tiny", "distilbert")
    weights = load_file(folder / "model.safetensors") | {"vocab_projector.bias": torch.zeros(4)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    assert open_model(folder).notes == (
        "1 tensors are not part of the encoder and are left out: vocab_projector",
    )


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    make_model("bert").half().save_pretrained(folder)
    source = open_model(folder, tokenizer_required=False)
    assert {p.dtype for p in source.module.parameters()} == {torch.float32}


def test_live_module_is_copied_and_left_alone() -> None:
    live = TwoNumbers().double().train()
    source = open_model(live, tokenizer=make_wordpiece_tokenizer())
    assert live.training
    assert live.table.weight.dtype == torch.float64
    assert source.module is not live
    assert source.output_names == ("output_0", "output_1")
    assert source.require_tokenizer().encode("a man").tokens[0] == "[CLS]"
    with torch.no_grad():
        live.table.weight[0, 0] += 1
    assert open_model(live).sha256 != source.sha256


def test_live_transformers_model_finds_its_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoModel

    live = AutoModel.from_pretrained(make_model_folder(tmp_path / "tiny"))
    assert open_model(live).require_tokenizer().get_vocab() == make_wordpiece_tokenizer().get_vocab()


def test_factory(tmp_path: Path) -> None:
    (tmp_path / "neighbour.py").write_text("SIZE = 7\n")
    file = tmp_path / "mine.py"
    file.write_text(
        "import torch\nfrom torch import nn\nfrom neighbour import SIZE\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.table = nn.Embedding(9, SIZE)\n"
        "    def forward(self, input_ids, attention_mask=None):\n"
        "        return {'rows': self.table(input_ids)}\n"
        "def make():\n    return Net()\n"
        f"def with_tokenizer():\n    return Net(), {str(make_model_folder(tmp_path / 'tiny'))!r}\n"
    )
    source = open_model(f"{file}:make")
    assert (source.name, source.output_names, source.tokenizer) == ("make", ("rows",), None)
    assert open_model(f"{file}:with_tokenizer").tokenizer is not None


def test_sharded_weights(tmp_path: Path) -> None:
    folder = make_model_folder(tmp_path / "whole", "bert", seed=1)
    sharded = make_model_folder(tmp_path / "sharded", "bert", seed=1)
    make_model("bert", seed=1).save_pretrained(sharded, max_shard_size="20KB")
    (sharded / "model.safetensors").unlink(missing_ok=True)
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    whole, parts = open_model(folder), open_model(sharded)
    for key, tensor in whole.module.state_dict().items():
        assert torch.equal(tensor, parts.module.state_dict()[key])
    assert len(parts.sha256) == 64
