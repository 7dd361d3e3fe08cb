"""Embedding: a clip as the encoder's tokens."""

from avtool.tasks import Task

TASK = Task(name="embed", command="avtool.tasks.embed.command:embed")
