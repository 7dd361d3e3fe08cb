"""Views with partners: a clip and others to mix it with, or to hold it against."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from avtool.data.views import TrainingViews, draws
from avtool.errors import DataError

if TYPE_CHECKING:
    from avtool.data.loader import FixedViews

_PARTNERS = 0x9A47  # sets these draws apart from those of the clip's own view


class PartnerViews:
    """Training views of a clip and of ``partners`` others drawn from ``chosen``, a function of (seed, epoch, index).

    ``sample(epoch, index)``: what ``views`` gives, and under ``other_image`` uint8 (P, 3, rows, columns),
    ``other_waveform`` int16 (P, N), ``other_gain_db`` (P,), ``other_index`` and ``other_label`` int64 (P,) the same of
    the partners. They are all different clips; with ``other_class`` no two of a sample have the same first label.
    DataError where there are too few clips or classes.
    """

    def __init__(
        self, views: TrainingViews, chosen: np.ndarray, *, partners: int, other_class: bool = False
    ) -> None:
        self.views, self.chosen, self.partners, self.other_class = views, chosen, partners, other_class
        dataset = views.dataset
        self.kinds = np.array([dataset.label_id(int(i)) for i in chosen]) if other_class else chosen
        kinds = len(np.unique(self.kinds))
        if kinds <= partners:
            what = "classes" if other_class else "clips"
            raise DataError(
                f"{dataset.folder} has {kinds} {what} of split {dataset.split} to draw from, {partners + 1} are needed "
                "for a sample",
                hint=f"use more data, or fewer {what} a sample",
            )

    def sample(self, epoch: int, index: int) -> dict[str, Any]:
        others = [self.views.sample(epoch, int(i)) for i in self._draw(epoch, index)]
        parts = ("image", "waveform", "gain_db", "index", "label")
        together = {f"other_{name}": np.stack([other[name] for other in others]) for name in parts}
        return {**self.views.sample(epoch, index), **together}

    def _draw(self, epoch: int, index: int) -> list[int]:
        """Clip numbers of the partners."""
        own = self.views.dataset.label_id(index) if self.other_class else index
        generator = draws(self.views.seed, epoch, index + (_PARTNERS << 32))
        return [int(self.chosen[place]) for place in draw_others(self.kinds, own, self.partners, generator)]


def draw_others(kinds: np.ndarray, own: int, count: int, generator: np.random.Generator) -> list[int]:
    """Places of ``count`` entries of ``kinds`` (M,): draws are repeated until all are of different kinds, none
    of them ``own``."""
    places, taken = list[int](), {own}
    while len(places) < count:
        place = int(generator.integers(len(kinds)))
        if (kind := int(kinds[place])) not in taken:
            places.append(place)
            taken.add(kind)
    return places


class MixtureViews:
    """Fixed mixtures for evaluation: sample ``i`` is the evaluation view of clip ``mixtures[i, 0]`` with those of the
    others in its row under ``other_``; ``mixtures`` int64 (M, N)."""

    def __init__(self, views: FixedViews, mixtures: np.ndarray) -> None:
        self.views, self.mixtures = views, mixtures

    def sample(self, index: int) -> dict[str, Any]:
        own, *others = (self.views.sample(int(clip)) for clip in self.mixtures[index])
        together = {
            f"other_{name}": np.stack([other[name] for other in others])
            for name in ("image", "waveform", "index", "label")
        }
        return {**own, **together}
