"""Train a Marian-type translation teacher on parallel text: the paper's task, at the size of a laptop.

    python examples/train_translation.py --data DIR --source en --target de --out teacher-en-de

DIR holds train.en.gz, train.de.gz, val.en.gz, val.de.gz and test_2016_flickr.* (Multi30k, one sentence
a line). The result is a Hugging Face model folder (config, safetensors, tokenizer.json) that
`archnet convert` takes. It needs `pip install 'archnet[hf,translation]'`.

The default, d_model 256 with 3 + 3 layers and 20 epochs, takes about an hour on two cores and three minutes
on a large GPU; `--size paper` is the 512-wide one with 6 + 6 layers of arXiv 2111.01135, wants a GPU and a
lower --rate: at 7e-4 it did not learn, at 3e-4 only slowly. Stopped, it goes on from its last epoch when the
same command is given again.
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

import torch
from sacrebleu.metrics import BLEU
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

from archnet import ArchNetError
from archnet.atomic import read_json, remove_tree, write_json
from archnet.checkpoint import load_tensors, pack, read_seal, save_tensors, unpack, write_sealed

SIZES = {
    "small": {"d_model": 256, "layers": 3, "ffn": 1024, "heads": 4},
    "paper": {"d_model": 512, "layers": 6, "ffn": 2048, "heads": 8},
}
DROPOUT = 0.2
LONGEST = 80
"""Tokens, the end included; longer pairs are left out."""
PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
Pair = tuple[list[int], list[int]]


def read_lines(folder: Path, name: str) -> list[str]:
    """The sentences of one file, one a line."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.exists() and not packed.exists():
        raise ArchNetError(
            f"{folder} has neither {name} nor {name}.gz", fix="give a folder with them (--data)"
        )
    with (
        gzip.open(packed, "rt", encoding="utf-8") if packed.exists() else plain.open(encoding="utf-8") as file
    ):
        return [line.strip() for line in file]


def train_tokenizer(sentences: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A joint byte-pair encoding of both languages that ends every sentence with </s>."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, UNKNOWN], show_progress=False
    )
    tokenizer.train_from_iterator(sentences, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, model_max_length=128
    )


def make_model(size: str, tokenizer: PreTrainedTokenizerFast) -> MarianMTModel:
    """An untrained post-LayerNorm encoder-decoder with ReLU and one shared embedding."""
    shape = SIZES[size]
    config = MarianConfig(
        vocab_size=len(tokenizer),
        d_model=shape["d_model"],
        encoder_layers=shape["layers"],
        decoder_layers=shape["layers"],
        encoder_ffn_dim=shape["ffn"],
        decoder_ffn_dim=shape["ffn"],
        encoder_attention_heads=shape["heads"],
        decoder_attention_heads=shape["heads"],
        dropout=DROPOUT,
        attention_dropout=0.0,
        activation_dropout=0.0,
        activation_function="relu",
        max_position_embeddings=128,
        scale_embedding=True,
        share_encoder_decoder_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        forced_eos_token_id=None,
        attn_implementation="eager",
        init_std=shape["d_model"] ** -0.5,
    )
    model = MarianMTModel(config)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 2 and "shared" not in name and "embed" not in name:
            nn.init.xavier_uniform_(parameter)
    model.generation_config.max_length = LONGEST
    model.generation_config.num_beams = 1
    model.generation_config.bad_words_ids = [[tokenizer.pad_token_id]]
    return model


def batches(pairs: Sequence[Pair], size: int, seed: int) -> Iterator[list[Pair]]:
    """Shuffled batches of sentences of about one length."""
    generator = random.Random(seed)
    order = sorted(
        range(len(pairs)), key=lambda i: (len(pairs[i][1]) // 2, len(pairs[i][0]), generator.random())
    )
    groups = [order[i : i + size] for i in range(0, len(order), size)]
    generator.shuffle(groups)
    for group in groups:
        yield [pairs[i] for i in group]


def padded(rows: Sequence[Sequence[int]], fill: int) -> Tensor:
    """int64 (batch, longest, rounded up to a multiple of 4 so that few shapes occur)."""
    longest = -(-max(map(len, rows)) // 4) * 4
    return torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows])


def loss_of(model: MarianMTModel, batch: Sequence[Pair], device: torch.device) -> Tensor:
    """Label-smoothed cross-entropy of the teacher-forced targets."""
    pad = model.config.pad_token_id
    source = padded([s for s, _ in batch], pad).to(device)
    labels = padded([t for _, t in batch], pad).to(device)
    shifted = torch.cat([torch.full_like(labels[:, :1], pad), labels[:, :-1]], 1)
    logits = model(
        input_ids=source, attention_mask=(source != pad).long(), decoder_input_ids=shifted, use_cache=False
    ).logits
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), ignore_index=pad, label_smoothing=0.1
    )


def translate(
    model: MarianMTModel, tokenizer: PreTrainedTokenizerFast, sources: Sequence[str], beams: int
) -> list[str]:
    """Translations in the order of the sources, computed by length."""
    order = sorted(range(len(sources)), key=lambda i: len(sources[i]))
    found = [""] * len(sources)
    for begin in range(0, len(order), 100):
        part = order[begin : begin + 100]
        rows = tokenizer([sources[i] for i in part], return_tensors="pt", padding=True)
        ids = model.generate(
            input_ids=rows["input_ids"].to(model.device),
            attention_mask=rows["attention_mask"].to(model.device),
            num_beams=beams,
            max_length=LONGEST,
        )
        for i, text in zip(part, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            found[i] = text
    return found


def bfloat16_is_faster(model: MarianMTModel, batch: Sequence[Pair], device: torch.device) -> bool:
    """Whether a training step is faster under autocast to bfloat16: timed, because it depends on the machine.

    Small models on processors with fast bfloat16 products can still be slower with it.
    """
    seconds = {}
    for autocast in (False, True):
        for _ in range(2):  # the first one warms up
            began = time.monotonic()
            with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                loss_of(model, batch, device).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds[autocast] = time.monotonic() - began
    model.zero_grad(set_to_none=True)
    return seconds[True] < seconds[False]


class Training:
    """The model with its optimizer and schedule, and the folder that keeps them between two epochs."""

    def __init__(self, model: MarianMTModel, rate: float, steps: int, folder: Path) -> None:
        self.model, self.folder, self.epoch = model, folder / "training", 0
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True
        )
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, rate, total_steps=steps, pct_start=0.12
        )
        if read_seal(self.folder) is not None:
            self._restore()

    def _restore(self) -> None:
        tensors = load_tensors(self.folder / "state.safetensors")
        state = unpack(read_json(self.folder / "state.json")["state"], tensors)
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

    def run(self, pairs: Sequence[Pair], epochs: int, size: int, seed: int) -> None:
        """Train to the last epoch; prints a line an epoch."""
        device = self.model.device
        autocast = bfloat16_is_faster(self.model.train(), next(batches(pairs, size, seed)), device)
        while self.epoch < epochs:
            began, total, count = time.monotonic(), 0.0, 0
            for batch in batches(pairs, size, seed + self.epoch):
                with torch.autocast(device.type, torch.bfloat16, enabled=autocast):
                    loss = loss_of(self.model, batch, device)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimizer.step()
                self.schedule.step()
                total, count = total + float(loss.detach()), count + 1
            self.epoch += 1
            self.save()
            seconds = time.monotonic() - began
            left = seconds * (epochs - self.epoch) / 60
            print(f"epoch {self.epoch}/{epochs}: loss {total / count:.3f}, {left:.0f} min left", flush=True)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with train.*, val.* and test_*")
    parser.add_argument("--out", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--source", default="en", help="language to translate from (default en)")
    parser.add_argument("--target", default="de", help="language to translate into (default de)")
    parser.add_argument("--test", default="test_2016_flickr", help="the set that is translated at the end")
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128, help="sentences a step")
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--vocabulary", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def main() -> None:
    """Train, saving after every epoch, and print the sacreBLEU of a test set with its signature."""
    args = parse()
    torch.manual_seed(args.seed)
    languages = (args.source, args.target)
    texts = [read_lines(args.data, f"train.{language}") for language in languages]
    args.out.mkdir(parents=True, exist_ok=True)
    if (args.out / "tokenizer.json").exists():
        tokenizer = PreTrainedTokenizerFast.from_pretrained(args.out)
    else:
        tokenizer = train_tokenizer([*texts[0], *texts[1]], args.vocabulary)
        tokenizer.save_pretrained(args.out)
    rows = [tokenizer(text)["input_ids"] for text in texts]
    pairs = [(s, t) for s, t in zip(*rows, strict=True) if max(len(s), len(t)) <= LONGEST]
    model = make_model(args.size, tokenizer).to("cuda" if torch.cuda.is_available() else "cpu")
    training = Training(model, args.rate, args.epochs * math.ceil(len(pairs) / args.batch), args.out)
    training.run(pairs, args.epochs, args.batch, args.seed)
    model.eval().save_pretrained(args.out)
    remove_tree(training.folder)
    sources, references = (read_lines(args.data, f"{args.test}.{language}") for language in languages)
    for beams in (1, 4):
        metric = BLEU()
        score = metric.corpus_score(translate(model, tokenizer, sources, beams), [references])
        print(f"{args.test}, {beams} beams: {score.score:.2f} ({metric.get_signature()})", flush=True)


if __name__ == "__main__":
    try:
        main()
    except ArchNetError as error:
        sys.exit(str(error))
