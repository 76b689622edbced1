"""Rotation keeps the function, mixes the channels of streams, and leaves outputs their own channels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archnet.calibration.rotation import OUTWARD, orthogonal, outputs_apart, rotate, streams
from archnet.converters.fold import Folded, fold
from archnet.executor import NetworkModule
from archnet.network_storage import load_folded, save_folded
from tests.calibration.test_equalization import TEXTS
from tests.converters.test_fold import BATCH, POST_NORM, PRE_NORM, network

BOTH_OUTPUTS = """
words EMBEDDING input_ids
norm BATCH_NORM words
up LINEAR norm
sum ADD up words
mean MEAN_POOL sum attention_mask
"""


def turned(text: str, seed: int = 0) -> tuple[Folded, Folded]:
    folded = fold(network(text, seed))
    return folded, rotate(outputs_apart(folded))


@settings(deadline=None)
@given(st.integers(1, 96), st.integers(0, 3))
def test_the_matrix_is_orthogonal_with_even_entries(features: int, seed: int) -> None:
    matrix = orthogonal(features, seed).double()
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(features).double(), rtol=0, atol=1e-5)
    odd = features // (features & -features)
    bound = (2.0 / features) ** 0.5 if odd > 1 else (1.0 / features) ** 0.5
    assert float(matrix.abs().max()) <= bound + 1e-5


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("seed", range(2))
def test_every_value_is_kept(text: str, seed: int) -> None:
    folded, rotated = turned(text, seed)
    with torch.no_grad():
        before, after = NetworkModule(folded.network)(BATCH), NetworkModule(rotated.network)(BATCH)
    assert set(folded.values) == set(rotated.values)
    for name, affine in folded.values.items():
        if name in ("input_ids", "attention_mask"):
            continue
        now = rotated.values[name]
        wanted, got = affine.apply(before[affine.carrier]), now.apply(after[now.carrier])
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize("text", [POST_NORM, PRE_NORM], ids=["post-norm", "pre-norm"])
def test_a_layer_turns_the_stream_back_for_an_output(text: str) -> None:
    folded, rotated = turned(text)
    (added,) = (site for site in rotated.network.sites if site.attributes.get(OUTWARD))
    assert len(rotated.network.sites) == len(folded.network.sites) + 1
    (carrier,) = rotated.network.outputs.values()
    assert rotated.network.site(carrier).inputs[0] == added.name
    values = [a for a in rotated.values.values() if a.carrier == carrier]
    assert values
    assert all(affine.rotation is None for affine in values)
    torch.testing.assert_close(rotated.network.parameter(added, "weight"), orthogonal(4))


def test_a_stream_and_its_mean_share_the_layer() -> None:
    source = network(BOTH_OUTPUTS)
    source = type(source)(
        source.inputs, source.sites, source.tensors, {"tokens": "sum", "mean": "mean"}, source.normalized
    )
    rotated = rotate(outputs_apart(fold(source)))
    assert rotated.network.outputs == {"tokens": "sum/outward", "mean": "mean"}
    assert [s.name for s in rotated.network.sites if s.attributes.get(OUTWARD)] == ["sum/outward"]
    with torch.no_grad():
        wanted, got = NetworkModule(source)(BATCH), NetworkModule(rotated.network)(BATCH)
    torch.testing.assert_close(got["mean"], wanted["mean"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got["sum/outward"], wanted["sum"], rtol=1e-4, atol=1e-4)


def test_an_outlier_channel_is_spread_over_all() -> None:
    folded = fold(network("words EMBEDDING input_ids\nplaces ADD words\nhead LINEAR places", 1))
    for name in ("words.table", "places.table"):
        folded.network.tensors[name][:, 2] *= 100.0
    rotated = rotate(outputs_apart(folded))

    def unevenness(value: Folded, name: str) -> float:
        with torch.no_grad():
            reach = NetworkModule(value.network)(BATCH)[name].abs().amax((0, 1))
        return float(reach.max() / reach.min())

    assert unevenness(folded, "places") > 20.0
    assert unevenness(rotated, "places") < 2.0


def test_what_a_relu_or_attention_reads_is_not_rotated() -> None:
    names = {name for group in streams(fold(network(POST_NORM)).network) for name in group}
    assert names.isdisjoint({"query", "key", "value", "attend", "up", "relu"})
    assert {"places", "sum", "sum2", "out", "down"} <= names


def test_a_rotation_is_stored(tmp_path: Path) -> None:
    _, rotated = turned(PRE_NORM)
    folder = tmp_path
    save_folded(rotated, folder)
    read = load_folded(folder)
    assert any(affine.rotation is not None for affine in read.values.values())
    for name, affine in rotated.values.items():
        assert read.values[name].carrier == affine.carrier
        assert (read.values[name].rotation is None) == (affine.rotation is None)
        if affine.rotation is not None:
            torch.testing.assert_close(read.values[name].rotation, affine.rotation)
