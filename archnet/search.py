"""Greedy and beam search over anything that gives the next token's logits, row by row.

Both follow transformers' generate (5.x, `_sample` without sampling and `_beam_search`), so that a float
network gives the same tokens here and there. Sentences that can change no more are dropped on the way,
which changes nothing in the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from archnet.generation import GenerationSettings

IMPOSSIBLE = -1e9
"""Added to the scores of what must not be chosen; transformers' number, so that ties fall alike."""


class Stepper(Protocol):
    """A decoder that has read a batch of sources and remembers the tokens that it was given."""

    def start(self, input_ids: Tensor, attention_mask: Tensor, *, beams: int, max_length: int) -> None:
        """Read sources, int64 (batch, tokens); each gets `beams` rows in a row.

        A language model has no sources: of these only the number of rows counts.
        """

    def step(self, tokens: Tensor) -> Tensor:
        """Give every row a token, int64 (rows,); float32 logits of the next one, (rows, vocabulary)."""

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, int64: some may be dropped, some repeated."""


def generate(
    stepper: Stepper,
    input_ids: Tensor,
    attention_mask: Tensor,
    settings: GenerationSettings,
    *,
    max_length: int,
    num_beams: int = 1,
    length_penalty: float = 1.0,
    prompt: Tensor | None = None,
) -> Tensor:
    """Translate a batch, or go on with a batch of texts.

    Args:
        input_ids: int64 (batch, source tokens), padded on the right; its device is the search's, and the
            stepper's logits must come there.
        attention_mask: the same shape.
        max_length: greatest number of tokens of a result, its first one included.
        num_beams: 1 searches greedily.
        length_penalty: a result's score is divided by the number of its tokens behind the prompt to this
            power (beam search).
        prompt: int64 (batch, at least 1 token), what every result begins with; the start token when None.

    Returns:
        int64 (batch, longest): the prompt, what follows and its end, then padding.
    """
    stepper.start(input_ids, attention_mask, beams=num_beams, max_length=max_length)
    with input_ids.device:  # where candidates are kept
        first = torch.full((len(input_ids), 1), settings.start) if prompt is None else prompt
        for i in range(first.shape[1] - 1):
            stepper.step(first[:, i].repeat_interleave(num_beams))
        if num_beams == 1:
            return _greedy(stepper, first, settings, max_length)
        return _BeamSearch(settings, first, num_beams, max_length, length_penalty).run(stepper)


def _allowed(scores: Tensor, settings: GenerationSettings, length: int, max_length: int) -> Tensor:
    """Scores (rows, vocabulary) with what the settings forbid at this length removed."""
    if settings.forbidden:
        scores = scores.clone()
        scores[:, list(settings.forbidden)] = -torch.inf
    for token, place in ((settings.forced_first, 1), (settings.forced_end, max_length - 1)):
        if token is not None and length == place:
            scores = torch.full_like(scores, -torch.inf)
            scores[:, token] = 0.0
    return scores.log_softmax(-1) if settings.renormalize else scores


def _greedy(stepper: Stepper, prompt: Tensor, settings: GenerationSettings, max_length: int) -> Tensor:
    count, length = prompt.shape
    found = torch.full((count, max_length), settings.pad)
    found[:, :length] = prompt
    ends = torch.tensor(settings.ends, dtype=torch.int64)
    rows, running = torch.arange(count), torch.ones(count, dtype=torch.bool)
    while length < max_length and bool(running.any()):
        if 2 * int(running.sum()) <= len(rows):
            stepper.select(torch.nonzero(running)[:, 0])
            rows, running = rows[running], running[running]
        logits = stepper.step(found[rows, length - 1])
        tokens = _allowed(logits, settings, length, max_length).argmax(-1)
        found[rows[running], length] = tokens[running]
        running = running & ~torch.isin(tokens, ends)
        length += 1
    return found[:, :length]


@dataclass
class _Beams:
    """Candidates of every sentence, best first: tokens (batch, beams, length), scores, token counts."""

    tokens: Tensor
    scores: Tensor
    lengths: Tensor
    finished: Tensor

    def take(self, index: Tensor) -> _Beams:
        """Of each sentence the candidates of these numbers, (batch, beams)."""
        wide = index[:, :, None].expand(-1, -1, self.tokens.shape[2])
        return _Beams(
            self.tokens.gather(1, wide), self.scores.gather(1, index), self.lengths.gather(1, index),
            self.finished.gather(1, index),
        )  # fmt: skip

    def joined(self, other: _Beams) -> _Beams:
        """These candidates and then the others."""
        return _Beams(
            torch.cat([self.tokens, other.tokens], 1), torch.cat([self.scores, other.scores], 1),
            torch.cat([self.lengths, other.lengths], 1), torch.cat([self.finished, other.finished], 1),
        )  # fmt: skip

    def of(self, sentences: Tensor) -> _Beams:
        """Those of some sentences."""
        return _Beams(
            self.tokens[sentences], self.scores[sentences], self.lengths[sentences], self.finished[sentences]
        )


class _BeamSearch:
    def __init__(
        self, settings: GenerationSettings, prompt: Tensor, beams: int, max_length: int, penalty: float
    ) -> None:
        count, self.prompt = prompt.shape
        self.settings, self.beams, self.max_length, self.penalty = settings, beams, max_length, penalty
        self.kept = max(2, 1 + len(settings.ends)) * beams
        # transformers fills behind the end of a beam with the end token where padding is token 0.
        fill = settings.pad or next(iter(settings.ends), 0)
        tokens = torch.full((count, beams, max_length), fill)
        tokens[:, :, : self.prompt] = prompt[:, None]
        scores = torch.zeros(count, beams)
        scores[:, 1:] = IMPOSSIBLE
        none = torch.zeros(count, beams, dtype=torch.bool)
        lengths = torch.full((count, beams), self.prompt)
        self.running = _Beams(tokens, scores, lengths, none)
        self.done = _Beams(
            tokens.clone(), torch.full((count, beams), IMPOSSIBLE), lengths.clone(), none.clone()
        )
        self.open = torch.ones(count, 1, dtype=torch.bool)
        """Whether a running candidate can still beat the finished ones."""
        self.result = torch.full((count, max_length), fill)
        self.lengths = torch.zeros(count, dtype=torch.int64)
        self.sentences = torch.arange(count)

    def run(self, stepper: Stepper) -> Tensor:
        length = self.prompt
        while True:
            logits = stepper.step(self.running.tokens[:, :, length - 1].reshape(-1))
            scores = _allowed(logits.float().log_softmax(-1), self.settings, length, self.max_length)
            candidates, parents = self._candidates(scores, length)
            self._finish(candidates, length)
            order = (candidates.scores + candidates.finished * IMPOSSIBLE).topk(self.beams)[1]
            stuck = bool(candidates.finished.all())
            rest = candidates.scores + candidates.finished * IMPOSSIBLE
            self.running = candidates.take(order)
            self.running.scores = rest.gather(1, order)
            length += 1
            self._update_open(length)
            if stuck or not bool(self.open.any()):
                break
            self._go_on(stepper, parents.gather(1, order))
        self._keep(torch.arange(len(self.sentences)))
        return self.result[:, : int(self.lengths.max())]

    def _candidates(self, scores: Tensor, length: int) -> tuple[_Beams, Tensor]:
        """The best continuations of every sentence, and the beam that each goes on from."""
        count, vocabulary = len(self.sentences), scores.shape[-1]
        total = (scores.view(count, self.beams, -1) + self.running.scores[:, :, None]).view(count, -1)
        best, index = total.topk(self.kept)
        parents, tokens = index // vocabulary, index % vocabulary
        found = self.running.take(parents)
        found.tokens[:, :, length] = tokens
        ends = torch.tensor(self.settings.ends, dtype=torch.int64)
        ended = torch.isin(tokens, ends) | (length + 1 >= self.max_length)
        return _Beams(found.tokens, best, torch.full_like(tokens, length + 1), ended), parents

    def _finish(self, candidates: _Beams, length: int) -> None:
        """Put ended candidates among the finished ones where they are better."""
        ended = candidates.finished.clone()
        ended[:, self.beams :] = False
        scores = candidates.scores / (length + 1 - self.prompt) ** self.penalty
        if self.settings.early_stopping:
            scores = scores + self.done.finished.all(-1, keepdim=True) * IMPOSSIBLE
        scores = scores + ~self.open * IMPOSSIBLE
        scores = scores + ~ended * IMPOSSIBLE
        merged = self.done.joined(_Beams(candidates.tokens, scores, candidates.lengths, ended))
        self.done = merged.take(merged.scores.topk(self.beams)[1])

    def _update_open(self, length: int) -> None:
        best = self.running.scores[:, :1] / (length - self.prompt) ** self.penalty
        worst = torch.where(
            self.done.finished, self.done.scores.min(1, keepdim=True)[0], torch.tensor(IMPOSSIBLE)
        )
        self.open = self.open & (best > worst).any(-1, keepdim=True)
        if self.settings.early_stopping:
            self.open = self.open & ~self.done.finished.all(-1, keepdim=True)

    def _go_on(self, stepper: Stepper, parents: Tensor) -> None:
        """Drop sentences that can change no more, and tell the decoder which rows go on."""
        left = torch.nonzero(self.open[:, 0])[:, 0]
        rows = torch.arange(len(self.sentences))[:, None] * self.beams + parents
        if len(left) < len(self.sentences):
            self._keep(torch.nonzero(~self.open[:, 0])[:, 0])
            self.running, self.done = self.running.of(left), self.done.of(left)
            self.sentences, self.open = self.sentences[left], self.open[left]
        stepper.select(rows[left].reshape(-1))

    def _keep(self, which: Tensor) -> None:
        """Write the best finished candidate of these sentences down."""
        self.result[self.sentences[which]] = self.done.tokens[which, 0]
        self.lengths[self.sentences[which]] = self.done.lengths[which, 0]
