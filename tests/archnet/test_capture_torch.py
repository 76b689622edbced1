"""PyTorch's own Transformer layers, whichever axis stands first, against the captured network."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from archnet.capture import Capture, capture
from archnet.executor import NetworkModule
from archnet.operators import Op

FEATURES, HEADS, LENGTH = 16, 2, 12


class Encoder(nn.Module):
    """nn.TransformerEncoder between an embedding with positions and an output of one of three kinds."""

    def __init__(self, *, batch_first: bool, norm_first: bool, causal: bool, output: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.batch_first, self.causal, self.output = batch_first, causal, output
        self.words = nn.Embedding(50, FEATURES)
        self.register_buffer("positions", torch.randn(64, 1, FEATURES))
        layer = nn.TransformerEncoderLayer(
            FEATURES, HEADS, 32, batch_first=batch_first, norm_first=norm_first, activation="gelu"
        )
        self.encoder = nn.TransformerEncoder(layer, 2, nn.LayerNorm(FEATURES), enable_nested_tensor=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """int64 (batch, sequence) -> (batch, sequence, FEATURES), or (batch, FEATURES)."""
        length = input_ids.shape[1]
        positions = self.positions[:length]
        if self.batch_first:
            x = self.words(input_ids) + positions[:, 0]
        else:
            x = self.words(input_ids.T) + positions
        later = nn.Transformer.generate_square_subsequent_mask(length) if self.causal else None
        x = self.encoder(x, mask=later, src_key_padding_mask=(attention_mask == 0).float() * -1e9)
        if self.output == "first":
            return x[:, 0] if self.batch_first else x[0]
        x = x if self.batch_first else x.transpose(0, 1)
        if self.output == "tokens":
            return x
        weights = attention_mask[:, :, None].float()
        return (x * weights).sum(1) / weights.sum(1)


def captured(**settings: object) -> Capture:
    model = Encoder(
        **{"batch_first": True, "norm_first": False, "causal": False, "output": "tokens"} | settings
    )  # type: ignore[arg-type]
    return capture(model.eval(), max_sequence=LENGTH, padding_id=0)


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({}, Op.LAYER_NORM),
        ({"batch_first": False, "causal": True}, Op.LAYER_NORM),
        ({"norm_first": True, "causal": True, "output": "mean"}, Op.MEAN_POOL),
        ({"batch_first": False, "norm_first": True, "output": "mean"}, Op.MEAN_POOL),
        ({"batch_first": False, "output": "first"}, Op.SELECT),
    ],
)
def test_its_layers_are_captured(settings: dict[str, object], last: Op) -> None:
    found = captured(**settings)
    assert found.unknown == ()
    assert found.error < 1e-5
    kinds = [site.op for site in found.network.sites]
    assert [kinds.count(op) for op in (Op.ATTENTION, Op.LINEAR, Op.LAYER_NORM, Op.GELU)] == [2, 12, 5, 2]
    assert kinds[-1] is last


def test_the_captured_network_computes_what_attention_over_words_of_the_first_axis_does() -> None:
    model = Encoder(batch_first=False, norm_first=False, causal=False, output="tokens").eval()
    network = capture(model, max_sequence=LENGTH, padding_id=0).network
    ids = torch.tensor([[5, 7, 9, 0], [8, 3, 2, 1]])
    batch = {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]])}
    with torch.no_grad():
        wanted = model(**batch)
        got = NetworkModule(network)(batch)[network.outputs["output"]]
    torch.testing.assert_close(got[1], wanted[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got[0, :3], wanted[0, :3], rtol=1e-4, atol=1e-4)
