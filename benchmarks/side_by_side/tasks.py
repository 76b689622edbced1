"""The tasks by name."""

from __future__ import annotations

from collections.abc import Callable

from side_by_side.subject import Question, Subject
from side_by_side.subject_images import images
from side_by_side.subject_sts import sts
from side_by_side.subject_translation import translation

SUBJECTS: dict[str, Callable[[Question], Subject]] = {
    "images": images,
    "sts": sts,
    "translation": translation,
}
