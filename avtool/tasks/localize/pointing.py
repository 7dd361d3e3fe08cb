"""How well a kind of map points, in short: kept beside a model, so that each of its heat maps can say so."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from avtool.errors import DataError
from avtool.files import write_json
from avtool.metrics.localization import ANOTHER_CLASS, binomial_error
from avtool.places import resolve_checkpoint, run_of

LOCALIZATION_JSON = "localization.json"


@dataclass(frozen=True)
class PointingResult:
    """Protocol ``pointing`` on one split: shares of ``clips`` images whose highest cell lies inside the
    boxes.

    ``score``: the model's maps of a ``kind``. Controls: ``untrained``, the same model with random weights;
    ``exchanged``, the same weights with ``another`` sound, a clip's of another class; ``disc``, a centred disc that
    sees and hears nothing; ``anywhere``, a point at random, which is the boxes' mean area; ``objects``, an object in
    view at random, None where the data do not name all of them. ``left_out`` clips have no truth in view, or nothing
    else.
    """

    checkpoint: str
    kind: str
    data: str
    split: str
    clips: int
    left_out: int
    score: float
    untrained: float
    exchanged: float
    disc: float
    anywhere: float
    protocol: str = "pointing"
    another: str = ANOTHER_CLASS
    objects: float | None = None

    @property
    def error(self) -> float:
        """Binomial standard error of the score."""
        return binomial_error(self.score, self.clips)

    def controls(self) -> dict[str, float]:
        """What the score stands beside, by what was done."""
        named = {} if self.objects is None else {"an object at random": self.objects}
        return {
            "untrained weights": self.untrained,
            self.another: self.exchanged,
            "a centred disc": self.disc,
            "a point at random": self.anywhere,
            **named,
        }

    def warning(self) -> str:
        """A sentence where the score is not more than a standard error above every control, else nothing."""
        name, best = max(self.controls().items(), key=lambda control: control[1])
        if self.score > best + self.error:
            return ""
        return (
            f"Not above its controls: on {self.clips} clips of {self.data} ({self.split}) this kind of map "
            f"points to what sounds in {self.score:.1%}, {name} in {best:.1%}."
        )


def measure_pointing(
    model: Path,
    data: Path,
    *,
    kind: str | None = None,
    split: str = "test",
    device: str = "auto",
    seed: int = 0,
) -> PointingResult:
    """Protocol ``pointing`` of one ``kind`` of map (None: the model's own), in short.

    ``model`` is a run, a checkpoint or a converted folder. DataError where the clips have no boxes, or one alone has.
    """
    import numpy as np

    from avtool.config.checkpoint import read_model_config
    from avtool.data.dataset import PreparedDataset
    from avtool.devices import resolve_device
    from avtool.tasks.context import Context
    from avtool.tasks.localize.protocols import evaluate_localization

    checkpoint, dataset = resolve_checkpoint(model), PreparedDataset(data, split)
    config, every = read_model_config(checkpoint), np.arange(len(dataset))
    maps = (kind,) if kind else ()
    context = Context(checkpoint, config, dataset, every, resolve_device(device), seed=seed, maps=maps)
    (table,) = evaluate_localization(context, ("pointing",), smooth=False)
    if len(table.rows) < 5:
        raise DataError(
            f"{data}: a single clip of split {split} has boxes, so there is no other's sound to compare with",
            hint="take data with boxes of more clips",
        )
    rows = "score", "exchanged", "untrained", "disc", "anywhere", "objects"
    shares = (row.measures["pointing"].value / 100 for row in table.rows)
    found: dict[str, Any] = dict(zip(rows, shares, strict=False))  # objects: where they are known
    return PointingResult(
        checkpoint=context.checkpoint.name,
        kind=table.rows[0].name,
        data=context.dataset.name,
        split=context.dataset.split,
        clips=table.samples,
        left_out=sum(table.left_out.values()),
        **found,
        another=table.rows[1].name.removeprefix(f"{table.rows[0].name}, "),
    )


def _place(checkpoint: Path) -> Path:
    """Where the evaluation of a checkpoint is kept: in its run, or in its folder where it is of no run."""
    return (run_of(checkpoint) or checkpoint) / LOCALIZATION_JSON


def keep_localization(model: Path, result: PointingResult) -> Path:
    """Write localization.json beside the model, where ``avtool localize`` finds its warning; returns its
    path.
    """
    path = _place(resolve_checkpoint(model))
    write_json(path, asdict(result))
    return path


def kept_localization(model: Path, kind: str) -> PointingResult | None:
    """What was kept beside the model for this checkpoint and kind of map, if anything. DataError where
    broken.
    """
    checkpoint = resolve_checkpoint(model)
    path = _place(checkpoint)
    if not path.is_file():
        return None
    try:
        result = PointingResult(**json.loads(path.read_text(encoding="utf-8")))
        if None in (value for name, value in vars(result).items() if name != "objects"):
            raise ValueError("a number is missing")
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is broken: {error}", hint=f"remove {path}") from error
    return result if (result.checkpoint, result.kind) == (checkpoint.name, kind) else None
