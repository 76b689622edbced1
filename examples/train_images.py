"""Train an image classifier on CIFAR-10: a teacher for `archnet convert`, at the size of a laptop.

    python examples/train_images.py --data DIR --model resnet --out resnet-cifar10
    python examples/train_images.py --data DIR --model vit --out vit-cifar10 --teacher resnet-cifar10

DIR holds train.zip and test.zip (or the folders train/ and test/) of images, one folder a class. The
result is a Hugging Face model folder (config, safetensors, preprocessor_config.json). It needs
`pip install 'archnet[hf,images]'`.

`resnet` is a ResNetForImageClassification of basic layers that sees the images enlarged to 64 x 64;
`vit` a ViTForImageClassification with patches of 4 x 4 on 32 x 32. A vision Transformer learns slowly
from 50,000 images alone: with `--teacher` it also imitates the ResNet's probabilities, and its
attention starts as in Trockman and Kolter, "Mimetic initialization" (arXiv 2305.09828). Stopped, it
goes on from its last epoch when the same command is given again.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from archnet.distill import has_fast_bfloat16

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10's pixels, red, green, blue, on the scale 0 to 1."""
STORED = 32
EPOCHS = {"resnet": 16, "vit": 24}
RATES = {"resnet": 0.15, "vit": 2e-3}
SIZES = {"resnet": 64, "vit": 32}


def read_images(folder: Path, part: str) -> tuple[Tensor, Tensor, list[str]]:
    """Pixels uint8 (images, 3, 32, 32), labels int64 (images), and the classes' names in order."""
    archive = folder / f"{part}.zip"
    if archive.exists():
        with zipfile.ZipFile(archive) as file:
            names = sorted(name for name in file.namelist() if name.lower().endswith((".jpg", ".png")))
            blobs = [(Path(name).parent.name, file.read(name)) for name in names]
    else:
        paths = sorted(path for path in (folder / part).rglob("*") if path.suffix.lower() in (".jpg", ".png"))
        blobs = [(path.parent.name, path.read_bytes()) for path in paths]
    if not blobs:
        raise SystemExit(f"{folder}: neither {part}.zip nor {part}/ holds images")
    classes = sorted({name for name, _ in blobs})
    pixels = np.empty((len(blobs), STORED, STORED, 3), np.uint8)
    for row, (_, blob) in enumerate(blobs):
        pixels[row] = Image.open(io.BytesIO(blob)).convert("RGB").resize((STORED, STORED))
    labels = torch.tensor([classes.index(name) for name, _ in blobs])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, classes


def to_input(pixels: Tensor, size: int) -> Tensor:
    """uint8 (batch, 3, 32, 32) -> normalised float32 (batch, 3, size, size), as the image processor does."""
    x = pixels.float()
    if size != STORED:
        x = functional.interpolate(x, (size, size), mode="bilinear")
    mean, deviation = (torch.tensor(values, device=x.device)[:, None, None] for values in (MEAN, DEVIATION))
    return ((x / 255 - mean) / deviation).contiguous(memory_format=torch.channels_last)


def augment(pixels: Tensor, generator: torch.Generator, shift: int = 4) -> Tensor:
    """A random flip, a shift of up to 4 pixels (edges reflected) and a blank square of 8 x 8 each."""
    count, _, height, width = pixels.shape

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high, (count, 1), generator=generator)

    padded = functional.pad(pixels.float(), (shift,) * 4, mode="reflect").to(torch.uint8)
    rows = torch.arange(height) + draw(0, 2 * shift + 1)
    columns = torch.arange(width) + draw(0, 2 * shift + 1)
    columns = torch.where(draw(0, 2) == 1, columns.flip(1), columns)
    image = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    blank_rows = (torch.arange(height) - draw(0, height)).abs() < 4
    blank_columns = (torch.arange(width) - draw(0, width)).abs() < 4
    blank = (blank_rows[:, :, None] & blank_columns[:, None, :])[..., None]
    grey = torch.tensor([round(255 * value) for value in MEAN], dtype=torch.uint8)
    return torch.where(blank, grey, moved).permute(0, 3, 1, 2)


def make_model(kind: str, classes: list[str], width: int, layers: int) -> nn.Module:
    """The untrained network; width and layers are the ViT's."""
    names = dict(enumerate(classes))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    if kind == "resnet":
        widths = [64, 128, 256]
        return ResNetForImageClassification(
            ResNetConfig(
                embedding_size=64, hidden_sizes=widths, depths=[2, 2, 2], layer_type="basic", **labels
            )
        ).to(memory_format=torch.channels_last)
    config = ViTConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=3,
        intermediate_size=4 * width,
        image_size=STORED,
        patch_size=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",  # the fused form's backward is slow on CPUs
        **labels,
    )
    model = ViTForImageClassification(config)
    start_like_trained(model)
    return model


@torch.no_grad()
def start_like_trained(model: ViTForImageClassification) -> None:
    """Give a ViT the look of a trained one: sine positions, attention to what is alike (arXiv 2305.09828)."""
    width, heads = model.config.hidden_size, model.config.num_attention_heads
    positions = model.get_parameter("vit.embeddings.position_embeddings")
    side = math.isqrt(positions.shape[1] - 1)
    angles = torch.arange(side)[:, None] / 10000 ** (torch.arange(width // 4) / (width // 4))
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # (side, width / 2)
    down, right = waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)
    positions[0, 1:] = torch.cat([down, right], 2).reshape(side * side, width)
    model.get_parameter("vit.embeddings.patch_embeddings.projection.weight").normal_(std=0.05)

    def factor(product: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        left, values, right = torch.linalg.svd(product)
        root = values[:rank].sqrt()
        return left[:, :rank] * root, right[:rank].T * root  # product is about a @ b.T

    size = width // heads
    for layer in model.vit.layers:
        attention = layer.attention
        for head in range(heads):
            rows = slice(head * size, (head + 1) * size)
            noise = torch.randn(width, width) / math.sqrt(width)
            query, key = factor(0.7 * noise + 0.7 * torch.eye(width), size)
            attention.q_proj.weight[rows], attention.k_proj.weight[rows] = query.T, key.T
        noise = torch.randn(width, width) / math.sqrt(width)
        value, join = factor(0.4 * noise - 0.4 * torch.eye(width), width)
        attention.v_proj.weight.copy_(value.T)
        attention.o_proj.weight.copy_(join)


def make_optimizers(kind: str, model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """SGD for the ResNet; for the ViT Muon on its blocks' matrices, which needs fewer epochs, and AdamW."""
    if kind == "resnet":
        decayed = [p for p in model.parameters() if p.dim() > 1]
        others = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}]
        return [torch.optim.SGD(groups, rate, momentum=0.9, nesterov=True, fused=True)]
    named = list(model.named_parameters())
    matrices = [p for name, p in named if ".layers." in name and p.dim() == 2]
    others = [p for name, p in named if not (".layers." in name and p.dim() == 2)]
    return [
        torch.optim.Muon(matrices, rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, rate / 2, weight_decay=0.01, fused=True),
    ]


def pack_state(model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """Every tensor that training continues from, under flat names."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, entry in optimizer.state_dict()["state"].items():
            for name, value in entry.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{number}.{index}.{name}"] = value
    return {name: value.contiguous() for name, value in tensors.items()}


def unpack_state(path: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Load what pack_state named; the number of epochs done."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        epochs = int(file.metadata()["epochs"])
    prefix = "model."
    model.load_state_dict(
        {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    )
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        for name, value in tensors.items():
            kind, *place = name.split(".")
            if kind == "optimizer" and int(place[0]) == number:
                state["state"].setdefault(int(place[1]), {})[place[2]] = value
        optimizer.load_state_dict(state)
    return epochs


def batches(count: int, batch: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of each step of an epoch, in random order; a last part of a batch is left out."""
    order = torch.randperm(count, generator=generator)
    for start in range(0, max(count - batch, 0) + 1, batch):
        yield order[start : start + batch]


def loss_of(logits: Tensor, labels: Tensor, imitated: Tensor | None) -> Tensor:
    """Cross-entropy to the labels, and with a teacher mostly to its softened probabilities."""
    if imitated is None:
        return functional.cross_entropy(logits, labels, label_smoothing=0.1)
    heat = 2.0
    soft = functional.kl_div(
        functional.log_softmax(logits / heat, 1),
        functional.softmax(imitated / heat, 1),
        reduction="batchmean",
    )
    return 0.3 * functional.cross_entropy(logits, labels) + 0.7 * heat * heat * soft


def logits_of(model: nn.Module, pixels: Tensor, device: torch.device) -> Tensor:
    """uint8 pixels -> float32 (batch, classes), computed in bfloat16 where that is faster."""
    size = SIZES["resnet" if isinstance(model, ResNetForImageClassification) else "vit"]
    with torch.autocast(device.type, torch.bfloat16, enabled=has_fast_bfloat16(device)):
        logits: Tensor = model(pixel_values=to_input(pixels.to(device), size)).logits
    return logits.float()


@torch.no_grad()
def top_1(model: nn.Module, pixels: Tensor, labels: Tensor, device: torch.device) -> float:
    """Share of right answers in percent."""
    model.eval()
    right = sum(
        int((logits_of(model, part, device).argmax(1).cpu() == wanted).sum())
        for part, wanted in zip(pixels.split(500), labels.split(500), strict=True)
    )
    return 100 * right / len(labels)


def train_epoch(
    model: nn.Module,
    teacher: nn.Module | None,
    data: tuple[Tensor, Tensor],
    optimizers: list[torch.optim.Optimizer],
    peaks: list[float],
    args: argparse.Namespace,
    epoch: int,
) -> float:
    """One pass over the images; the mean loss. What is drawn depends on the seed and the epoch only."""
    generator = torch.Generator().manual_seed(1000 * args.seed + epoch)
    device = next(model.parameters()).device
    pixels, labels = data
    steps = max(len(labels) // args.batch, 1)
    total, started = 0.0, time.monotonic()
    model.train()
    for step, rows in enumerate(batches(len(labels), args.batch, generator)):
        done = (epoch * steps + step) / (args.epochs * steps)
        factor = min(done / 0.15, 1.0) * min((1 - done) / 0.85, 1.0)  # up to the peak, then down to nothing
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * factor
        batch = augment(pixels[rows], generator)
        with torch.no_grad():
            imitated = logits_of(teacher, batch, device) if teacher is not None else None
        loss = loss_of(logits_of(model, batch, device), labels[rows].to(device), imitated)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        for optimizer in optimizers:
            optimizer.step()
        total += float(loss.detach())
        if step % 20 == 19:
            speed = (time.monotonic() - started) / (step + 1)
            print(f"  {step + 1}/{steps}: loss {total / (step + 1):.3f}, {speed:.2f} s a step", flush=True)
    return total / steps


def write_processor(folder: Path, size: int) -> None:
    """preprocessor_config.json: what becomes of a picture before the network."""
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": DEVIATION,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def load_teacher(folder: Path) -> nn.Module:
    """The ResNet that this script has trained before; it may be stored in half precision."""
    teacher: nn.Module = ResNetForImageClassification.from_pretrained(folder)
    return teacher.float().eval().to(memory_format=torch.channels_last)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train.zip and test.zip")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--model", choices=EPOCHS, required=True)
    parser.add_argument("--teacher", type=Path, help="model folder of a trained ResNet to imitate as well")
    parser.add_argument("--epochs", type=int, help="default 16 for the ResNet, 24 for the ViT")
    parser.add_argument("--width", type=int, default=192, help="features of the ViT, a multiple of 12")
    parser.add_argument("--layers", type=int, default=6, help="layers of the ViT")
    parser.add_argument("--batch", type=int, default=256, help="images a step")
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--limit", type=int, help="use only that many training images: a trial run")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.width < 12 or args.width % 12:
        parser.error(f"--width {args.width}: three heads and positions of four parts need a multiple of 12")
    if args.layers < 1:
        parser.error(f"--layers {args.layers}: at least 1")
    args.epochs = args.epochs or EPOCHS[args.model]
    args.rate = args.rate or RATES[args.model]
    return args


def main() -> None:
    """Train, saving after every epoch, and print the top-1 of the last one."""
    args = parse()
    torch.manual_seed(args.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    args.out.mkdir(parents=True, exist_ok=True)
    pixels, labels, classes = read_images(args.data, "train")
    if args.limit:
        chosen = torch.randperm(len(labels))[: args.limit]
        pixels, labels = pixels[chosen], labels[chosen]
    teacher = load_teacher(args.teacher).to(device) if args.teacher else None
    model = make_model(args.model, classes, args.width, args.layers).to(device)
    optimizers = make_optimizers(args.model, model, args.rate)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    state = args.out / "training.safetensors"
    begin = unpack_state(state, model, optimizers) if state.exists() else 0
    test_pixels, test_labels, _ = read_images(args.data, "test")
    for epoch in range(begin, args.epochs):
        started = time.monotonic()
        loss = train_epoch(model, teacher, (pixels, labels), optimizers, peaks, args, epoch)
        partial = state.with_suffix(".partial")
        save_file(pack_state(model, optimizers), partial, {"epochs": str(epoch + 1)})
        partial.replace(state)
        score = top_1(model, test_pixels[::10], test_labels[::10], device)
        took = time.monotonic() - started
        text = f"epoch {epoch + 1}/{args.epochs}: loss {loss:.3f}, every tenth test image {score:.1f} %"
        print(f"{text}, {took:.0f} s", flush=True)
    model.save_pretrained(args.out)
    write_processor(args.out, SIZES[args.model])
    print(f"top-1 of {len(test_labels)} test images: {top_1(model, test_pixels, test_labels, device):.2f} %")


if __name__ == "__main__":
    main()
