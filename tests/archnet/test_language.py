"""Language models: capture, search and scores against transformers, integers against the student."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from archnet.agreement import IntegerComparison
from archnet.backends.base import feed
from archnet.backends.reference import ReferenceBackend
from archnet.blocks import find_blocks
from archnet.capture import LANGUAGE_INPUTS, capture
from archnet.errors import ArchNetError
from archnet.executor import NetworkModule
from archnet.export.onnx import export_onnx
from archnet.incremental import IncrementalDecoder
from archnet.integer_decoder import IntegerDecoder
from archnet.language import LanguageRun
from archnet.operators import Op
from archnet.parts import DECODER
from archnet.plan import make_plan
from archnet.records import block_agreement
from archnet.reference import execute
from archnet.sources.writer import LanguageModel, generation_settings
from archnet.storage import save_graph
from archnet.targets import load_profile
from archnet.tasks.language import language_score, load_text_set, perplexity, right
from archnet.translation import Search
from tests.hf_models import make_model
from tests.hf_writers import END, PAD, make_language_model, make_language_tokenizer
from tests.small_language import LENGTH, captured_language, folded_language, frozen_language, text_batch

FAMILIES = ["gpt2", "llama", "gpt_neo", "gemma2", "gemma3_text"]
MOST = 14


@cache
def model_of(family: str) -> Any:
    """Its random texts end now and then: </s> is as likely as the likeliest word."""
    return make_language_model(family, seed=3)


@cache
def run_of(family: str) -> LanguageRun:
    """The captured float network with all that a search needs."""
    wrapped = LanguageModel(model_of(family))
    found = capture(wrapped, max_sequence=16, padding_id=PAD, inputs=LANGUAGE_INPUTS)
    settings, _ = generation_settings(wrapped, "tiny")
    return LanguageRun(IncrementalDecoder(NetworkModule(found.network).eval()), settings, 16, Path("none"))


def beginnings() -> tuple[Tensor, Tensor]:
    ids = torch.randint(5, 90, (5, 6), generator=torch.Generator().manual_seed(11))
    mask = torch.ones_like(ids)
    for row, length in enumerate((6, 4, 6, 1, 4)):
        mask[row, length:] = 0
    ids[mask == 0] = PAD
    return ids, mask


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "search",
    [Search(), Search(4), Search(3, None, 0.6), Search(2, 9, 2.0)],
    ids=["greedy", "beams", "short", "cut"],
)
def test_texts_of_several_lengths_go_on_as_in_transformers(family: str, search: Search) -> None:
    ids, mask = beginnings()
    found = run_of(family).generate(ids, mask, search)
    most = search.max_length or 16
    for row, length, got in zip(ids, mask.sum(1).tolist(), found, strict=True):
        alone = row[None, :length]
        wanted = model_of(family).generate(
            input_ids=alone, attention_mask=torch.ones_like(alone), max_length=most, do_sample=False,
            num_beams=search.num_beams or 1,
            **({} if search.length_penalty is None else {"length_penalty": search.length_penalty}),
        )[0]  # fmt: skip
        assert got[: len(wanted)].tolist() == wanted.tolist()
        assert set(got[len(wanted) :].tolist()) <= {PAD}


def test_an_end_is_written_and_padding_follows() -> None:
    settings = run_of("gpt2").settings
    ids, mask = beginnings()
    found = run_of("gpt2").generate(ids, mask, Search())
    word = int(found[0, 6])
    ended = LanguageRun(
        run_of("gpt2").stepper, type(settings)(settings.start, (word,), settings.pad), 16, Path("none")
    ).generate(ids, mask, Search())
    assert ended[0, :7].tolist() == found[0, :7].tolist()
    assert set(ended[0, 7:].tolist()) <= {PAD}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_likelihoods_are_those_of_transformers(family: str) -> None:
    draw = np.random.default_rng(0)
    rows = [draw.integers(5, 90, n).astype(np.int32) for n in (7, 2, 16, 5)]
    found = run_of(family).log_likelihoods(rows)
    for row, (lost, likeliest, tokens) in zip(rows, found, strict=True):
        ids = torch.from_numpy(row.astype(np.int64))[None]
        with torch.no_grad():
            result = model_of(family)(input_ids=ids, labels=ids)
        assert tokens == len(row) - 1
        assert lost / tokens == pytest.approx(float(result.loss), rel=1e-4)
        assert likeliest == int((result.logits[0, :-1].argmax(-1) == ids[0, 1:]).sum())
    assert perplexity(found) == pytest.approx(np.exp(found[:, 0].sum() / found[:, 2].sum()))
    score = language_score(found)
    assert score.score == right(found) == 100 * found[:, 1].sum() / found[:, 2].sum()
    assert list(score.parts) == ["next token right x100", "perplexity"]


@pytest.mark.parametrize(
    ("search", "problem", "fix"),
    [
        (Search(0), "0 beams cannot be searched", "give 1"),
        (Search(1, 99), "max_length 99 is out of range", "2 to 16 tokens"),
        (Search(1, 6), "a text has 6 tokens, and 6 are all that there may be", "a shorter text"),
    ],
)
def test_what_cannot_be_searched_is_refused(search: Search, problem: str, fix: str) -> None:
    with pytest.raises(ArchNetError, match=problem) as raised:
        run_of("gpt2").generate(*beginnings(), search)
    assert fix in (raised.value.fix or "")


def test_a_text_without_a_token_is_refused() -> None:
    ids, mask = beginnings()
    mask[2] = 0
    with pytest.raises(ArchNetError, match="a text without a token cannot be gone on with"):
        run_of("gpt2").generate(ids, mask, Search())


def test_settings_of_a_model_that_names_no_tokens() -> None:
    wrapped = LanguageModel(make_language_model("gpt2", bos_token_id=None, eos_token_id=None))
    wrapped.model.generation_config.bos_token_id = None
    wrapped.model.generation_config.eos_token_id = None
    settings, notes = generation_settings(wrapped, "tiny")
    assert (settings.start, settings.ends, settings.pad, notes) == (0, (), PAD, ())
    ids, mask = beginnings()
    run = LanguageRun(run_of("gpt2").stepper, settings, 16, Path("none"))
    assert run.generate(ids, mask, Search()).shape == run.generate(ids, mask, Search(2)).shape == (5, 16)


def test_a_token_that_the_table_lacks_is_refused() -> None:
    wrapped = LanguageModel(make_language_model("gpt2"))
    wrapped.model.generation_config.eos_token_id = 50256
    with pytest.raises(ArchNetError, match="words, but its eos_token_id is 50256") as raised:
        generation_settings(wrapped, "tiny")
    assert raised.value.fix == "set eos_token_id in its generation_config.json"


@pytest.mark.parametrize(
    ("family", "bits", "attention"),
    [
        ("gpt2", "w8a8", "softmax"),
        ("llama", "w8a8", "softmax"),
        ("gpt_neo", "w8a8", "softmax"),
        ("gemma2", "w8a8", "table"),
        ("gpt2", "w4a4", "softmax"),
        ("gpt2", "w8a8", "relu"),
        ("gpt2", "w8a8", "table"),
    ],
)
def test_steps_of_integers_follow_the_student_that_reads_whole_texts(
    family: str, bits: str, attention: str
) -> None:
    student, graph = frozen_language(family, bits, attention)
    batch = text_batch(7)
    ids, mask = batch["decoder_input_ids"], batch["decoder_attention_mask"].bool()
    attends = [site.name for site in student.network.sites if site.op is Op.ATTENTION]
    of = IntegerDecoder(None, ReferenceBackend(graph), graph)
    of.start(ids, batch["decoder_attention_mask"], beams=1, max_length=LENGTH)
    logits, states = [], []
    for i in range(ids.shape[1]):
        states.append(execute(graph, feed(graph, of.inputs(ids[:, i])), attends))
        logits.append(of.step(ids[:, i]))
    with torch.no_grad():
        values = student(batch)
    first = np.concatenate([state[attends[0]] for state in states], 1)
    off = values[attends[0]].numpy() / graph.tensors[attends[0]].scale - first
    # What a step reads of the tokens before it comes from the cache; a rounding may fall otherwise. How far a
    # single one is carried depends on the processor that trained (3 to 7), the mean square does not.
    assert np.sqrt(np.square(off[mask.numpy()]).mean()) <= 1
    assert np.sqrt(np.square((off + first - np.roll(first, 1, 1))[mask.numpy()]).mean()) > 2
    affine = folded_language(family, attention).values[captured_language(family).outputs["logits"]]
    wanted, got = affine.apply(values[affine.carrier])[mask], torch.stack(logits, 1)[mask]
    assert float(torch.cosine_similarity(wanted, got, dim=-1).mean()) > 0.95


@pytest.mark.parametrize(
    ("family", "bits"),
    [("gpt2", "w8a8"), ("llama", "w8a8"), ("gpt_neo", "w8a8"), ("gemma2", "w8a8"), ("llama", "w4a4")],
)
def test_onnx_runtime_has_the_reference_integers(family: str, bits: str, tmp_path: Path) -> None:
    from archnet.backends import open_backend

    _, graph = frozen_language(family, bits)
    save_graph(graph, tmp_path / "graph")
    (tmp_path / "onnx").mkdir()
    export_onnx(graph, tmp_path / "onnx" / "model.onnx")
    backend = open_backend("onnxruntime", tmp_path, threads=1)
    of, batch = IntegerDecoder(None, ReferenceBackend(graph), graph), text_batch(5)
    compared = IntegerComparison(graph, backend)
    of.start(batch["decoder_input_ids"], batch["decoder_attention_mask"], beams=1, max_length=LENGTH)
    for i in range(4):
        tokens = batch["decoder_input_ids"][:, i]
        compared.add(of.inputs(tokens))
        of.step(tokens)
    for row in compared.agreement():
        if row.scope == "layer":
            assert row.max_lsb <= (1 if row.op == Op.SOFTMAX else 0), row


def test_the_step_reads_no_encoder_and_takes_what_its_caches_say() -> None:
    _, graph = frozen_language("llama")
    assert [spec.name for spec in graph.inputs] == [
        "decoder_input_ids", "position", "cache_mask",
        "cache_key_0", "cache_value_0", "cache_key_1", "cache_value_1",
    ]  # fmt: skip
    assert [o.name for o in graph.outputs] == [
        "logits", "self_key_0", "self_value_0", "self_key_1", "self_value_1",
    ]  # fmt: skip


def test_blocks_agree_with_the_teacher_they_were_made_of() -> None:
    _, graph = frozen_language()
    teacher = captured_language()
    rows = block_agreement(teacher, find_blocks(teacher), folded_language(), {DECODER: graph}, text_batch(1))
    assert [row.block for row in rows] == ["head", "block 0", "block 1"]
    assert all(row.cosine > 0 for row in rows)


def test_a_model_that_sees_what_is_to_come_is_refused() -> None:
    """A BERT with the output layer of a language model, which transformers lets write."""
    from transformers import BertConfig, BertLMHeadModel

    config = make_model("bert").config.to_dict() | {"is_decoder": False}
    model = BertLMHeadModel(BertConfig.from_dict(config)).eval()
    found = capture(LanguageModel(model), max_sequence=LENGTH, padding_id=0, inputs=LANGUAGE_INPUTS)
    plan = make_plan(found.network, load_profile("onnxruntime"), model="bert", embedding="gather")
    reasons = {refused.reason for refused in plan.refusals}
    assert "the decoder looks at tokens that are still to come, so it cannot run token by token" in reasons


@pytest.mark.parametrize("family", ["cohere", "gemma2"])
def test_scores_of_words_that_are_scaled_and_bounded_ones(family: str) -> None:
    """Cohere multiplies them, which the layer takes in; Gemma 2 bounds them, which the host does."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {"vocab_size": 90, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "head_dim": 8}
    config = AutoConfig.for_model(family, **sizes, **tokens, intermediate_size=64, num_key_value_heads=2)
    torch.manual_seed(0)
    model = LanguageModel(AutoModelForCausalLM.from_config(config).eval())
    found = capture(model, max_sequence=LENGTH, padding_id=0, inputs=LANGUAGE_INPUTS)
    assert found.unknown == ()
    assert found.error < 1e-4
    words = found.network.site(found.network.outputs["logits"])
    if family == "cohere":
        assert config.logit_scale != 1.0
    else:
        assert words.attributes["cap"] == config.final_logit_softcapping == 30.0
        plan = make_plan(found.network, load_profile("onnxruntime"), model="gemma2", embedding="gather")
        assert [d.site for d in plan.decisions if d.action == "host"] == ["output logits"]


def test_long_lines_are_several_texts_and_lines_of_one_token_none(tmp_path: Path) -> None:
    tokenizer = make_language_tokenizer()
    file = tmp_path / "held-out.txt"
    file.write_text("the man plays with the dog in the park\n\nx\n")
    data = load_text_set([file], tokenizer, 5)
    assert data.name == "held-out.txt"
    whole = tokenizer.encode("the man plays with the dog in the park").ids[1:]
    pieces = [row.tolist()[1:] for row in data.rows]
    assert [token for piece in pieces for token in piece] == [*whole, *tokenizer.encode("x").ids[1:]]
    assert {int(row[0]) for row in data.rows} == {0}
    assert max(map(len, data.rows)) == 5


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "does not exist"), ("a\n", "has two tokens"), (".", "is a folder")]
)
def test_texts_that_cannot_be_scored_are_refused(tmp_path: Path, content: str | None, problem: str) -> None:
    tokenizer = make_language_tokenizer()
    tokenizer.no_truncation()
    place = tmp_path / "held-out.txt"
    if content == ".":
        place = tmp_path
    elif content is not None:
        place.write_text(content)
        tokenizer.post_processor = None
    with pytest.raises(ArchNetError, match=problem):
        load_text_set([place], tokenizer, 8)


def test_end_token_is_none_of_the_padding() -> None:
    assert END != PAD
