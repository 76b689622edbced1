"""The real TPU-MLIR, after `archnet targets install sophgo`: networks on the TPU, with our integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from archnet.backends import open_backend
from archnet.compiling import compile_for
from archnet.config import Bits
from archnet.errors import ArchNetError
from archnet.graph import QuantizedGraph
from archnet.metrics import cosine
from archnet.operators import Op
from archnet.reference import execute
from archnet.routes import reads_tokens
from archnet.targets import load_profile
from archnet.targets.toolchain import find_toolchain
from tests.archnet.test_freeze import quantized
from tests.attention_graphs import with_padding, with_relu_attention, with_table_softmax
from tests.builds import finished
from tests.graphs import random_inputs, tiny_encoder
from tests.image_graphs import image_graph, images
from tests.integration.test_target_operators import SEQUENCE, alone, name_of, probed, random_feeds
from tests.steps import STEPS, walked

pytestmark = [
    pytest.mark.vendor,
    pytest.mark.skipif(
        find_toolchain("sophgo").installed() is None, reason="needs archnet targets install sophgo"
    ),
]

Feeds = dict[str, NDArray[np.generic]]

CHIPS = ("bm1684x", "bm1688")
W8A8 = Bits(8, 8)
ALONE = sorted(
    op for op, support in load_profile("sophgo").operators.items() if support.probe.name == "placed"
)
"""What the profile says was compiled alone; what only moves integers is in the networks."""


def encoder(bits: Bits = W8A8) -> QuantizedGraph:
    return tiny_encoder(
        np.random.default_rng(0), layers=2, embedding="host", concat=True, pooled=False,
        weight_bits=bits.weights, activation_bits=bits.activations,
    )  # fmt: skip


NETWORKS: dict[str, Callable[[], QuantizedGraph]] = {
    "text": encoder,
    "text w4a4": lambda: encoder(Bits(4, 4)),
    "table": lambda: with_table_softmax(encoder()),
    "relu": lambda: with_relu_attention(encoder()),
    "mixing": lambda: with_padding(encoder()),
    "neighbours": lambda: quantized("neighbours", "host")[1],
    "distances": lambda: quantized("distances", "host", "w4a4")[1],
    "cnn": lambda: image_graph("cnn", W8A8),
    "cnn w4a4": lambda: image_graph("cnn", Bits(4, 4)),
    "vit": lambda: image_graph("vit", W8A8),
    "beit": lambda: image_graph("beit", W8A8),
    "swin": lambda: image_graph("swin", W8A8),
    "swin padded": lambda: image_graph("swin_padded", W8A8),
}


def inputs_of(graph: QuantizedGraph) -> Feeds:
    """A batch of two; sentences of unequal lengths."""
    if any(spec.name == "pixel_values" for spec in graph.inputs):
        return {"pixel_values": images(2, 3)["pixel_values"].numpy()}
    return dict(random_inputs(np.random.default_rng(5), graph, batch=2, sequence=graph.max_sequence))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("kind", NETWORKS)
def test_a_network_is_on_the_tpu_and_its_integers_are_ours(tmp_path: Path, kind: str, chip: str) -> None:
    graph = NETWORKS[kind]()
    inputs, folder = inputs_of(graph), finished(tmp_path / "build", graph)
    (summary,) = compile_for(folder, chip, seconds=600)
    assert summary.fallback_operators == 0
    assert summary.native_operators > 5
    assert summary.binary_bytes > 1000
    assert summary.cycles is not None
    assert summary.cycles > 100
    softmaxes = sum(node.op in (Op.SOFTMAX, Op.TABLE_SOFTMAX) for node in graph.nodes)
    assert summary.float_operators == ((f"Softmax ({softmaxes})",) if softmaxes else ())
    backend, reference = open_backend(chip, folder), open_backend("reference", folder)
    found, expected = backend.run(inputs), reference.run(inputs)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
    shown, known = backend.tensors(inputs), reference.tensors(inputs)
    assert len(shown) > 5
    for name, integers in shown.items():
        np.testing.assert_array_equal(integers, known[name], err_msg=name)


@pytest.mark.parametrize("kind", STEPS)
def test_a_decoders_step_is_on_the_tpu_and_its_integers_are_ours(tmp_path: Path, kind: str) -> None:
    graph, feeds = walked(kind)
    folder = finished(tmp_path / "build", graph)
    (summary,) = compile_for(folder, "bm1684x", seconds=600)
    assert summary.fallback_operators == 0
    backend, reference = open_backend("bm1684x", folder), open_backend("reference", folder)
    for fed in (feeds[0], feeds[-1]):
        found = backend.run(fed)
        for name, value in reference.run(fed).items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_a_shorter_sentence_is_padded_and_a_longer_one_is_refused(tmp_path: Path) -> None:
    graph = encoder()
    folder = finished(tmp_path / "build", graph)
    with pytest.raises(ArchNetError, match=r"is not compiled for bm1684x\n"):
        open_backend("bm1684x", folder)
    compile_for(folder, "bm1684x", sequence=12, seconds=600)
    backend, reference = open_backend("bm1684x", folder), open_backend("reference", folder)
    inputs = random_inputs(np.random.default_rng(5), graph, batch=2, sequence=9)
    for name, value in reference.run(inputs).items():
        assert cosine(value, backend.run(inputs)[name]).min() > 0.999  # a padded key has the least score
    with pytest.raises(ArchNetError, match="the input has 13 positions; the compiled file takes 12"):
        backend.run(random_inputs(np.random.default_rng(5), graph, batch=1, sequence=13))
    program = folder / "compiled" / "bm1684x" / "program.npz"
    program.write_bytes(program.read_bytes()[:-9])
    with pytest.raises(ArchNetError, match=r"program.npz is damaged, or of another network"):
        open_backend("bm1684x", folder)


@pytest.mark.parametrize("op", ALONE, ids=name_of)
@pytest.mark.parametrize("chip", CHIPS)
def test_every_operator_of_the_profile_is_on_the_tpu_and_exact(tmp_path: Path, chip: str, op: Op) -> None:
    """The probe "placed" of the profile; a share next to a half is none of these."""
    widths = [bits for other, bits in probed("sophgo") if other is op]
    for bits in widths if chip == "bm1684x" else widths[:1]:
        graph = alone(op, bits)
        feeds = random_feeds(graph)
        folder = finished(tmp_path / str(bits), graph)
        (summary,) = compile_for(
            folder, chip, sequence=SEQUENCE if reads_tokens(graph) else None, seconds=300
        )
        assert summary.fallback_operators == 0
        assert summary.native_operators > 0
        found = open_backend(chip, folder).run(feeds)["y"]
        expected = execute(graph, feeds)[graph.outputs[0].tensor]
        np.testing.assert_array_equal(found, expected)
