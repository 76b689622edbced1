"""Train a small language model on text: a decoder alone, which foresees the next word.

    python examples/train_language.py --data train.en.gz --test test.en.gz --out writer

The files hold a text a line; they may be gzipped. The result is a Hugging Face model folder (config,
safetensors, tokenizer.json) that `archnet convert` takes: `--kind llama` (RMSNorm, rotary positions, gated
layers, two query heads for each key head) or `--kind gpt2` (LayerNorm, learned positions, GELU). It needs
`pip install 'archnet[hf]'`.

The default, 192 wide with 4 layers and 8 epochs of 29,000 captions, takes about an hour on a busy core.
Stopped, it goes on from its last epoch when the same command is given again.
"""

from __future__ import annotations

import argparse
import gzip
import math
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from archnet import ArchNetError
from archnet.atomic import read_json, remove_tree, write_json
from archnet.checkpoint import load_tensors, pack, read_seal, save_tensors, unpack, write_sealed

PAD, START, END = "<pad>", "<s>", "</s>"
LONGEST = 128
"""Tokens of a text, start and end included; what is longer is cut."""

DROPOUT = 0.1
"""Of GPT-2; Llama has none."""


def read_lines(file: Path) -> list[str]:
    """The texts of a file, one a line, without empty ones."""
    if not file.is_file():
        raise ArchNetError(f"{file} is no file", fix="give a text with one piece a line")
    with (
        gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else file.open(encoding="utf-8")
    ) as lines:
        found = [line.strip() for line in lines]
    return [line for line in found if line]


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair encoding that begins every text with <s>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, bos_token=START, eos_token=END, model_max_length=LONGEST
    )


def make_model(kind: str, width: int, layers: int, tokenizer: PreTrainedTokenizerFast) -> nn.Module:
    """An untrained decoder with heads of 32 features, whose output layer is its embedding."""
    tokens = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "tie_word_embeddings": True,
    }
    heads = width // 32
    if kind == "gpt2":
        dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), DROPOUT)
        sizes = {"n_embd": width, "n_layer": layers, "n_head": heads, "n_positions": LONGEST}
        return AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt2", **tokens, **sizes, **dropout))
    config = AutoConfig.for_model(
        "llama",
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2 if heads % 2 == 0 else heads,
        intermediate_size=8 * width // 3,
        max_position_embeddings=LONGEST,
        **tokens,
    )
    return AutoModelForCausalLM.from_config(config)


def batches(rows: Sequence[Sequence[int]], size: int, seed: int) -> Iterator[list[Sequence[int]]]:
    """Shuffled batches of texts of about one length."""
    generator = random.Random(seed)
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i]) // 2, generator.random()))
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    generator.shuffle(groups)
    for group in groups:
        yield [rows[i] for i in group]


def loss_of(model: nn.Module, batch: Sequence[Sequence[int]], pad: int, *, reduction: str = "mean") -> Tensor:
    """Cross-entropy of every token behind the first, nats."""
    longest = -(-max(map(len, batch)) // 4) * 4  # few shapes occur
    ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in batch])
    logits = model(input_ids=ids, attention_mask=(ids != pad).long(), use_cache=False).logits
    return nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=pad, reduction=reduction
    )


class Training:
    """The model with its optimizer and schedule, and the folder that keeps them between two epochs."""

    def __init__(self, model: nn.Module, rate: float, steps: int, folder: Path) -> None:
        self.model, self.folder, self.epoch = model, folder / "training", 0
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps, pct_start=0.1
        )
        if read_seal(self.folder) is not None:
            self._restore()

    def _restore(self) -> None:
        tensors = load_tensors(self.folder / "state.safetensors")
        state: dict[str, Any] = unpack(read_json(self.folder / "state.json")["state"], tensors)
        if state["schedule"]["total_steps"] != self.schedule.total_steps:
            raise ArchNetError(
                f"{self.folder} was begun with another number of steps",
                fix="give the --epochs, --batch and --data of before, or another --out",
            )
        self.model.load_state_dict(state["model"], strict=False)  # the output layer is the embedding
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch = state["epoch"]

    def save(self) -> None:
        """Keep what the next epoch starts from, whole or not at all."""
        tensors: dict[str, Tensor] = {}
        state = {
            "model": dict(self.model.named_parameters()),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {k: v for k, v in self.schedule.state_dict().items() if not k.startswith("_")},
            "epoch": self.epoch,
        }
        packed = pack(state, tensors)

        def write(place: Path) -> None:
            save_tensors(place / "state.safetensors", tensors)
            write_json(place / "state.json", {"state": packed})

        write_sealed(self.folder, write, {"epoch": self.epoch})

    def run(self, rows: Sequence[Sequence[int]], pad: int, epochs: int, size: int, seed: int) -> None:
        """Train to the last epoch; prints a line an epoch."""
        self.model.train()
        while self.epoch < epochs:
            began, total, count = time.monotonic(), 0.0, 0
            for batch in batches(rows, size, seed + self.epoch):
                loss = loss_of(self.model, batch, pad)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.schedule.step()
                total, count = total + float(loss.detach()), count + 1
            self.epoch += 1
            self.save()
            left = (time.monotonic() - began) * (epochs - self.epoch) / 60
            print(f"epoch {self.epoch}/{epochs}: loss {total / count:.3f}, {left:.0f} min left", flush=True)


@torch.no_grad()
def perplexity(model: nn.Module, rows: Sequence[Sequence[int]], pad: int) -> float:
    """exp of the mean cross-entropy of a token."""
    model.eval()
    total = sum(float(loss_of(model, part, pad, reduction="sum")) for part in batches(rows, 64, 0))
    return math.exp(total / sum(len(row) - 1 for row in rows))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="texts to learn from, one a line")
    parser.add_argument("--test", type=Path, help="other texts, whose perplexity is printed at the end")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--kind", choices=("llama", "gpt2"), default="llama")
    parser.add_argument("--width", type=int, default=192, help="features of a token, a multiple of 32")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="texts a step")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--vocabulary", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.width < 32 or args.width % 32:
        parser.error(f"--width {args.width} is no multiple of 32")
    return args


def main() -> None:
    """Train, saving after every epoch, and print the perplexity of a test set."""
    args = parse()
    torch.manual_seed(args.seed)
    texts = [line for file in args.data for line in read_lines(file)]
    others = read_lines(args.test) if args.test else []
    args.out.mkdir(parents=True, exist_ok=True)
    if (args.out / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    else:
        tokenizer = train_tokenizer(texts, args.vocabulary)
        tokenizer.save_pretrained(args.out)

    def rows_of(lines: Sequence[str]) -> list[list[int]]:
        return [[*tokenizer(line)["input_ids"], tokenizer.eos_token_id][:LONGEST] for line in lines]

    rows, pad = rows_of(texts), tokenizer.pad_token_id
    model = make_model(args.kind, args.width, args.layers, tokenizer)
    training = Training(model, args.rate, args.epochs * math.ceil(len(rows) / args.batch), args.out)
    training.run(rows, pad, args.epochs, args.batch, args.seed)
    model.eval().save_pretrained(args.out)
    remove_tree(training.folder)
    if others:
        print(f"{args.test.name}: perplexity {perplexity(model, rows_of(others), pad):.2f}", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ArchNetError as error:
        sys.exit(str(error))
