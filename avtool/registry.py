"""What is known by name: tasks, kinds of fusion, data sets. One line each; packages beside avtool add theirs.

An entry is a place, ``module:attribute``, that is imported when the entry is asked for. A package of one's own names
its entries in its pyproject.toml, under ``[project.entry-points."avtool.tasks"]`` (or ``avtool.fusions``,
``avtool.datasets``); they are treated as the shipped ones are.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.metadata import entry_points
from types import ModuleType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from avtool.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from avtool.data.catalog import DataSet
    from avtool.tasks import Task

T = TypeVar("T")
_installed = cache(entry_points)  # one look at what is installed serves every table


def load_module(place: str) -> ModuleType:
    """The module of ``module:attribute``."""
    return importlib.import_module(place.partition(":")[0])


def resolve(place: str) -> Any:
    """What stands at ``module:attribute``."""
    return getattr(load_module(place), place.partition(":")[2])


class Table(Mapping[str, T], Generic[T]):
    """Entries by name. ``what`` one of them is called, ``group`` of entry points that add to the shipped ``places``."""

    def __init__(self, what: str, group: str, places: Mapping[str, str]) -> None:
        self.what, self.group, self._shipped = what, group, places
        self._loaded: dict[str, T] = {}

    @cached_property
    def _places(self) -> dict[str, str]:
        """UsageError where a package gives an entry the name of another."""
        places = dict(self._shipped)
        for point in _installed().select(group=self.group):
            if places.setdefault(point.name, point.value) != point.value:
                raise UsageError(
                    f"two packages have a {self.what} {point.name!r}: {places[point.name]} and {point.value}",
                    hint="uninstall one of them",
                )
        return places

    def __getitem__(self, name: str) -> T:
        if name not in self._loaded:
            self._loaded[name] = resolve(self._places[name])
        return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._places  # nothing is imported to know it

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def find(self, name: str) -> T:
        """The entry ``name``. UsageError with the nearest name where there is none."""
        if name not in self:
            raise UsageError(f"unknown {self.what} {name}", hint=did_you_mean(name, self))
        return self[name]


PRETRAIN = "pretrain"
"""The task that needs no weights to start from; the others fine-tune what it learned."""
TASKS: Table[Task] = Table(
    "task",
    "avtool.tasks",
    {
        name: f"avtool.tasks.{name}:TASK"
        for name in ("pretrain", "classify", "localize", "separate", "segment", "retrieve", "embed")
    },
)
VIT = "vit"
"""The kind of model that no task trains: the encoder of one modality, a starting point."""


def kinds() -> dict[str, Task]:
    """The kinds of models, as config.json names them, and the task that trains each."""
    return {kind: task for task in TASKS.values() for kind in task.kinds}


FUSIONS: Table[type[nn.Module]] = Table(
    "kind of fusion",
    "avtool.fusions",
    {
        "token": "avtool.model.fusion:TokenAttention",
        "dense": "avtool.model.fusion:DenseAttention",
        "factorized": "avtool.model.fusion:FactorizedAttention",
        "bilinear": "avtool.model.bilinear:BilinearAttention",
    },
)
DATASETS: Table[DataSet] = Table(
    "data set",
    "avtool.datasets",
    {
        name: f"avtool.data.catalog.{name.replace('-', '_')}:DATASET"
        for name in (
            "vggsound", "vggss", "vggsound-music", "audioset", "music", "flickr-soundnet", "avsbench", "manifest",
            "synth",
        )
    },
)  # fmt: skip
