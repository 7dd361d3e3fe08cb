"""The names of a model's classes, in ``classes.json`` beside its config.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from avtool.errors import CheckpointError
from avtool.files import write_json
from avtool.hub import CLASSES
from avtool.progress import say


@dataclass(frozen=True)
class ClassNames:
    """``names`` in the order of the class ids; ``several``: whether a clip may have more than one of them."""

    names: tuple[str, ...]
    several: bool = False

    def write(self, folder: Path) -> None:
        """Into the checkpoint ``folder``."""
        content = {"classes": self.names, "several": self.several}
        write_json(folder / CLASSES, content, indent=1, ensure_ascii=False)

    @classmethod
    def read(cls, folder: Path, *, count: int) -> ClassNames | None:
        """Those of a checkpoint of ``count`` classes; None where it has none. CheckpointError where damaged."""
        path = folder / CLASSES
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names, several = content["classes"], content["several"]
        except (ValueError, TypeError, KeyError) as error:
            raise _damaged(path, "it does not hold the names of classes") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise _damaged(path, "its classes are no list of names")
        if len(names) != count:
            raise _damaged(path, f"it names {len(names)} classes, the model has {count}")
        return cls(tuple(names), bool(several))

    @classmethod
    def of(cls, folder: Path, *, count: int) -> ClassNames:
        """Those of a checkpoint of ``count`` classes; where it has none, it says so and they are numbered."""
        found = cls.read(folder, count=count)
        if found is None:
            say(f"{folder} was saved without the names of its classes: they are numbered")
        return found or cls(tuple(map(str, range(count))))


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: {what}", hint="take an undamaged copy, or remove it to do without names"
    )
