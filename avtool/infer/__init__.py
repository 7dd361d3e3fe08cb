"""Running a model on one's own clips: one file a task, and ``scene`` for what they share."""

from __future__ import annotations

from avtool.infer.classification import Classified, classify
from avtool.infer.embedding import embed
from avtool.infer.localization import HeatMap, localize
from avtool.infer.segmentation import Found, segment
from avtool.infer.separation import Separated, separate

__all__ = [
    "Classified",
    "Found",
    "HeatMap",
    "Separated",
    "classify",
    "embed",
    "localize",
    "segment",
    "separate",
]
