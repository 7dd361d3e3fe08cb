"""Running a model on one's own clips: one file a task, and ``scene`` for what they share."""

from __future__ import annotations

from avtool.infer.localization import HeatMap, localize

__all__ = ["HeatMap", "localize"]
