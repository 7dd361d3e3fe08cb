"""The tasks, a folder each: ``recipe`` (its section of a recipe), ``train`` (model, loss, views, validation),
``protocols`` (how it is evaluated), ``predict`` and ``command`` (one's own clips).

A folder says in ``TASK`` which of them it has, and ``avtool.registry.TASKS`` has a line for it. Nothing else knows it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from avtool.errors import UsageError
from avtool.registry import PRETRAIN

if TYPE_CHECKING:
    from avtool.config.checkpoint import Config
    from avtool.tasks.context import Context
    from avtool.tasks.table import Table


@dataclass(frozen=True)
class Task:
    """What there is of a task; places are ``module:attribute``, for ``avtool.registry.resolve`` to import.

    ``section``: the class of its section of a recipe. ``training``: a class as ``avtool.tasks.training.Training`` says.
    ``kinds``: the models that it trains, by their ``kind`` in config.json; ``head``: the class of the section in which
    config.json says what stands on their encoder. ``protocols``: those of its evaluation, for the shell to complete,
    which imports nothing heavy. ``evaluated_by``: the task by whose protocols these are evaluated where nothing is said
    ("": its own). ``command``: the function behind ``avtool NAME``. ``limits``: what its models are not for.
    """

    name: str
    section: str = ""
    training: str = ""
    kinds: Mapping[str, str] = field(default_factory=dict)
    head: str = "avtool.config.types:Section"
    evaluation: str = ""
    protocols: Sequence[str] = ()
    evaluated_by: str = ""
    command: str = ""
    limits: str = ""

    @property
    def finetuned(self) -> bool:
        """Whether a pretrained encoder is fine-tuned for it, so that its section has to be in a recipe."""
        return bool(self.training and self.section) and self.name != PRETRAIN

    def check_kind(self, config: Config, checkpoint: Path, *, otherwise: str = "") -> None:
        """UsageError where a checkpoint's model is of no kind that this task trains; ``otherwise``: another way out."""
        if config.kind not in self.kinds:
            raise UsageError(
                f"{checkpoint} holds a model of kind {config.kind}, not {' or '.join(self.kinds)}",
                hint=f"avtool finetune {self.name} --recipe tiny-{self.name} --from {checkpoint}{otherwise}",
            )


@dataclass(frozen=True)
class Evaluation:
    """How a task is evaluated: by which ``protocols``; ``tables`` of the chosen; ``usual``: those for a model where
    none are named (None: all). ``windows``, ``maps``: whether these options mean something; ``object_prior``: by which
    protocols that one does. ``score``: tables of the context's ``given`` predictions, by the protocols ``scored``.
    """

    protocols: Sequence[str]
    tables: Callable[[Context, Sequence[str]], list[Table]]
    usual: Callable[[Config, Path], Sequence[str]] | None = None
    windows: bool = False
    maps: bool = False
    object_prior: Sequence[str] = ()
    score: Callable[[Context, Sequence[str]], list[Table]] | None = None
    scored: Sequence[str] = ()
