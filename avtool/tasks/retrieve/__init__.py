"""Retrieval: a clip's sound found by its picture, and its picture by its sound."""

from avtool.tasks import Task

TASK = Task(name="retrieve", evaluation="avtool.tasks.retrieve.protocols:EVALUATION", protocols=("recall",))
