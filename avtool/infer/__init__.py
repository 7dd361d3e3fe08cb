"""Running a model on one's own clips: one file a task, and ``scene`` for what they share."""

from __future__ import annotations

from avtool.infer.classification import Classified, classify
from avtool.infer.embedding import embed
from avtool.infer.localization import HeatMap, localize

__all__ = ["Classified", "HeatMap", "classify", "embed", "localize"]
