"""Tasks that measure a converted model against the original: labelled data, a metric, one score."""

from archnet.tasks.registry import TASKS, Task, load_task
from archnet.tasks.score import Classify, Encode, TaskScore

__all__ = ["TASKS", "Classify", "Encode", "Task", "TaskScore", "load_task"]
