"""A task's score for anything that runs a text network: the float original and every backend alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from archnet.build import BuildDir
from archnet.encode import Run, encode, open_tokenizer, padding_id, sentence_vectors
from archnet.graph import QuantizedGraph
from archnet.tasks import Task, TaskScore


@dataclass(frozen=True, slots=True)
class Scorer:
    """Feeds a task's sentences to a network, with the tokenizer of the build folder.

    Attributes:
        max_length: longer sentences are cut to so many tokens, for every network alike.
        label_names: names of a classifier's labels, by number.
    """

    task: Task
    tokenizer: Tokenizer
    padding: int
    max_length: int
    label_names: Mapping[int, str]

    @classmethod
    def open(cls, task: Task, build: BuildDir, graph: QuantizedGraph) -> Scorer:
        """For a build folder.

        Raises:
            ArchNetError: the folder has no tokenizer, or the network is not one for this task.
        """
        task.check_outputs([output.name for output in graph.outputs], graph.name)
        tokenizer = open_tokenizer(build.tokenizer_dir)
        padding = padding_id(build.tokenizer_dir, tokenizer)
        named = build.read_json(build.manifest).get("id2label")
        labels = {int(k): str(v) for k, v in named.items()} if isinstance(named, Mapping) else {}
        return cls(task, tokenizer, padding, graph.max_sequence, labels)

    def score(self, run: Run, report: Callable[[int, int], None]) -> TaskScore:
        """Score what `run` computes.

        Args:
            report: told how many sentences are done, of how many.

        Raises:
            ArchNetError: the outputs do not suit the task, or are not finite.
        """
        total, before = self._sentences(), 0

        def vectors(sentences: Sequence[str]) -> NDArray[np.float32]:
            nonlocal before
            made = encode(
                run,
                self.tokenizer,
                sentences,
                max_length=self.max_length,
                padding=self.padding,
                pick=logits if self.task.labelled else sentence_vectors,
                progress=lambda done: report(before + done, total),
            )
            before += len(sentences)
            return made

        return self.task.evaluate(vectors, label_names=self.label_names)

    def _sentences(self) -> int:
        """How many sentences are encoded: each distinct one of pairs, every labelled text."""
        distinct = {s for part in self.task.pairs for s in (*part.first, *part.second)}
        return len(distinct) + sum(len(part.texts) for part in self.task.labelled)


def logits(outputs: Mapping[str, NDArray[np.float32]], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """The output of a classifier, (batch, labels)."""
    return outputs["logits"]
