"""Going on with texts with the build of a language model: on any backend, or in float."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor

from archnet.backends import ENCODERS_ALONE, open_backend
from archnet.backends.base import Backend
from archnet.build import BuildDir
from archnet.errors import ArchNetError
from archnet.parts import DECODER
from archnet.search import generate
from archnet.translation import SENTENCES, DecoderRun, Search


class LanguageRun(DecoderRun):
    """A language model: what is written stands behind the text that was given. It can score texts, too."""

    def generate(self, input_ids: Tensor, attention_mask: Tensor, search: Search) -> Tensor:
        """Go on with token ids; texts of as many tokens are computed together.

        Args:
            input_ids: int64 (batch, tokens), padded on the right.
            attention_mask: the same shape.

        Returns:
            int64 (batch, longest): each text with what was written behind it, then padding.

        Raises:
            ArchNetError: a setting is out of range, or a text has no token, or too many.
        """
        beams, most, penalty = search.over(self.settings, self.longest)
        lengths = attention_mask.sum(1)
        _check(lengths, most)
        rows: list[Tensor] = [torch.zeros(0, dtype=torch.int64)] * len(input_ids)
        for length in sorted(set(lengths.tolist())):
            chosen = torch.nonzero(lengths == length)[:, 0]
            prompt = input_ids[chosen, :length]
            found = generate(
                self.stepper, prompt, torch.ones_like(prompt), self.settings, prompt=prompt,
                max_length=most, num_beams=beams, length_penalty=penalty,
            )  # fmt: skip
            for i, row in zip(chosen.tolist(), found, strict=True):
                rows[i] = row
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.settings.pad)

    def text_of(self, tokenizer: Tokenizer, source: str, length: int, row: Sequence[int]) -> str:
        """The source with what was written behind its tokens, up to the end."""
        end = next((i for i in range(length, len(row)) if row[i] in self.settings.ends), len(row))
        # What is written alone would lose the space before its first word.
        whole, given = (tokenizer.decode(list(row[:n]), skip_special_tokens=True) for n in (end, length))
        return source + str(whole[len(given) :])

    def log_likelihoods(
        self, rows: Sequence[NDArray[np.int32]], progress: Callable[[int], None] = lambda done: None
    ) -> NDArray[np.float64]:
        """How well each token but the first is foreseen from those before it.

        Args:
            rows: token ids of each text, at least two and at most `longest`.
            progress: told how many texts are done.

        Returns:
            (texts, 3): the sum of the negative log-likelihoods in nats, how many tokens were the likeliest of
            all, how many tokens there are.
        """
        found = np.zeros((len(rows), 3))
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for begin in range(0, len(order), SENTENCES):
            chosen = order[begin : begin + SENTENCES]
            longest = max(len(rows[i]) for i in chosen)
            ids = torch.zeros(len(chosen), longest, dtype=torch.int64)
            valid = torch.zeros(len(chosen), longest, dtype=torch.bool)
            for place, i in enumerate(chosen):
                ids[place, : len(rows[i])] = torch.from_numpy(rows[i].astype(np.int64))
                valid[place, : len(rows[i])] = True
            found[chosen] = self._foreseen(ids, valid)
            progress(begin + len(chosen))
        return found

    def _foreseen(self, ids: Tensor, valid: Tensor) -> NDArray[np.float64]:
        """`log_likelihoods` of a batch, int64 and bool (texts, tokens)."""
        self.stepper.start(ids, valid.to(torch.int64), beams=1, max_length=ids.shape[1])
        total = torch.zeros(len(ids), 3, dtype=torch.float64)
        for i in range(ids.shape[1] - 1):
            logits, token, counts = self.stepper.step(ids[:, i]), ids[:, i + 1], valid[:, i + 1]
            lost = torch.nn.functional.cross_entropy(logits, token, reduction="none")
            row = torch.stack([lost, (logits.argmax(-1) == token).float(), torch.ones_like(lost)], 1)
            total += row.double() * counts[:, None]
        return total.numpy()


def _check(lengths: Tensor, most: int) -> None:
    """Refuse texts that nothing can be written behind."""
    if int(lengths.min()) < 1:
        raise ArchNetError("a text without a token cannot be gone on with", fix="give at least one token")
    if int(lengths.max()) >= most:
        raise ArchNetError(
            f"a text has {int(lengths.max())} tokens, and {most} are all that there may be in the end",
            fix="give a shorter text, or a greater max_length (at most what --seq-len was)",
        )


def open_language(build: BuildDir, backend: str, *, threads: int | None = None) -> LanguageRun:
    """The integer network of a build in a backend, by its name.

    Raises:
        ArchNetError: the backend is unknown, not installed, or none that runs decoders.
    """
    return LanguageRun.open(build, None, decoder_backend(build.path, backend, threads=threads))


def decoder_backend(folder: Path, backend: str, *, threads: int | None = None) -> Backend:
    """The decoder of a build in a backend, by its name.

    Raises:
        ArchNetError: the backend is unknown, not installed, or none that runs decoders.
    """
    if backend in ENCODERS_ALONE:
        raise ArchNetError(
            f"the backend {backend} runs encoders, and {folder} is a language model",
            fix="give --backend reference, onnxruntime, tvm, or a chip's that it was compiled for",
        )
    return open_backend(backend, folder / DECODER, threads=threads)
