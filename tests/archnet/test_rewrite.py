"""The student equals the teacher at progress 0, and a plain network at progress 1."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from archnet.config import NORM_FORMS
from archnet.converters.homotopy import Homotopy, set_progress
from archnet.converters.layer_norm import NormCorrection
from archnet.executor import NetworkModule
from archnet.network import Network
from archnet.operators import Op
from archnet.rewrite import materialize, rewrite, token_statistics
from tests.small_encoder import captured_encoder, padded_batch


@pytest.fixture(scope="module")
def teacher() -> Network:
    return captured_encoder(head=True)


@torch.no_grad()
def test_statistics_are_of_valid_tokens(teacher: Network) -> None:
    batch = padded_batch()
    statistics = token_statistics(NetworkModule(teacher), [batch])
    norm = next(site for site in teacher.sites if site.op is Op.LAYER_NORM)
    values = NetworkModule(teacher)(batch)[norm.inputs[0]][batch["attention_mask"].bool()]
    torch.testing.assert_close(statistics[norm.name].mean, values.mean(0))
    wanted = values.std(-1, unbiased=False).median()
    torch.testing.assert_close(statistics[norm.name].deviation, wanted[None])


def disturb_corrections(modules: Mapping[str, Homotopy]) -> None:
    """Give corrections, which start at nothing, something to correct."""
    for module in modules.values():
        if isinstance(module, NormCorrection):
            torch.nn.init.normal_(module.back, std=0.1, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("norms", NORM_FORMS)
@torch.no_grad()
def test_progress_0_is_the_teacher_and_1_a_plain_network(teacher: Network, norms: str) -> None:
    batch = padded_batch()
    module = NetworkModule(teacher)
    rewritten = rewrite(teacher, token_statistics(module, [batch]), norms=norms)
    disturb_corrections(rewritten.modules)
    student = rewritten.module()
    wanted, got = module(batch), student(batch)
    valid = batch["attention_mask"].bool()
    for site in teacher.sites:
        a, b = wanted[site.name], got[site.name]
        torch.testing.assert_close(b[valid] if b.dim() == 3 else b, a[valid] if a.dim() == 3 else a)
    set_progress(student, 1.0)
    plain = materialize(rewritten.network, rewritten.modules, student.tensors())
    ops = {site.op for site in plain.sites}
    assert ops.isdisjoint({Op.LAYER_NORM, Op.GELU, Op.TANH})
    end, straight = student(batch), NetworkModule(plain)(batch)
    for site in plain.outputs.values():
        a, b = end[site], straight[site]  # what stands in place of padding is the student's 0
        torch.testing.assert_close(b[valid] if b.dim() == 3 else b, a[valid] if a.dim() == 3 else a)
        assert not torch.allclose(end[site], wanted[site], atol=1e-2)


@pytest.mark.parametrize("norms", NORM_FORMS)
def test_every_part_of_the_student_learns(teacher: Network, norms: str) -> None:
    batch = padded_batch()
    rewritten = rewrite(teacher, token_statistics(NetworkModule(teacher), [batch]), norms=norms)
    disturb_corrections(rewritten.modules)
    student = rewritten.module()
    set_progress(student, 0.5)
    values = student(batch)
    torch.stack([values[site].square().mean() for site in teacher.outputs.values()]).sum().backward()
    still = [n for n, p in student.named_parameters() if p.grad is None or not bool(p.grad.any())]
    assert still == [n for n in still if n.endswith("key|bias")]  # a shift of all keys changes no softmax
