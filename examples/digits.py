"""A model that reads arrays: a small vision Transformer on scikit-learn's handwritten digits, 8 x 8 grey.

    pip install scikit-learn
    python examples/digits.py
    archnet convert examples/digits.py:make --data digits/train.npz --target ethos-u55 --out build
    archnet validate build --task images --data digits/test.npz

The second command trains it, in less than a minute, and writes weights and data into ./digits, where `make`
looks for them. What holds here holds for spectrograms and sensors: a .npz file has the samples as the model
reads them, float32 (samples, channels, height, width), and for a score their labels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

FOLDER, WEIGHTS = Path("digits"), "model.safetensors"
SIDE, PATCH, WIDTH, HEADS, LAYERS, CLASSES = 8, 2, 32, 4, 2, 10
EPOCHS, BATCH, RATE, HELD_OUT = 60, 50, 2e-3, 397


class Digits(nn.Module):
    """Patches of 2 x 2, PyTorch's own Transformer encoder, the mean of its tokens, a class."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.positions = nn.Parameter(0.02 * torch.randn((SIDE // PATCH) ** 2, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, 2 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, LAYERS, nn.LayerNorm(WIDTH), enable_nested_tensor=False)
        self.classes = nn.Linear(WIDTH, CLASSES)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """float32 (batch, 1, 8, 8) -> logits (batch, 10)."""
        tokens = self.patches(pixel_values).flatten(2).transpose(1, 2) + self.positions
        logits: Tensor = self.classes(self.encoder(tokens).mean(1))
        return logits


def make() -> tuple[nn.Module, tuple[int, int, int]]:
    """What `examples/digits.py:make` names: the trained model, and the size of what it reads."""
    if not (FOLDER / WEIGHTS).exists():
        raise FileNotFoundError(f"there is no {FOLDER / WEIGHTS} here: run python {__file__} first")
    model = Digits()
    model.load_state_dict(load_file(FOLDER / WEIGHTS))
    return model.eval(), (1, SIDE, SIDE)


def main() -> None:
    """Train, and write weights and data."""
    from sklearn.datasets import load_digits

    FOLDER.mkdir(exist_ok=True)
    digits = load_digits()
    values = (digits.images[:, None] / 8.0 - 1.0).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(values))
    train, test = order[HELD_OUT:], order[:HELD_OUT]
    np.savez(FOLDER / "train.npz", pixel_values=values[train])
    np.savez(FOLDER / "test.npz", pixel_values=values[test], labels=digits.target[test])
    model = fit(torch.from_numpy(values[train]), torch.from_numpy(digits.target[train]))
    with torch.no_grad():
        found = model(torch.from_numpy(values[test])).argmax(1).numpy()
    print(f"top-1 of {HELD_OUT} digits: {100 * (found == digits.target[test]).mean():.2f}")
    save_file(model.state_dict(), FOLDER / WEIGHTS)


def fit(values: Tensor, labels: Tensor) -> nn.Module:
    """A model trained on (samples, 1, 8, 8) and their classes."""
    torch.manual_seed(0)
    model = Digits()
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    steps = EPOCHS * (len(values) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(epoch))
        for rows in order[: len(order) // BATCH * BATCH].split(BATCH):
            moved = torch.roll(values[rows], int(torch.randint(-1, 2, ())), dims=-1)
            loss = functional.cross_entropy(model(moved), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return model.eval()


if __name__ == "__main__":
    main()
