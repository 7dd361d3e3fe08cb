"""The task's section of a recipe: beside it nothing is imported."""

from __future__ import annotations

from avtool.config.types import Positive, Section


class Loudness(Section):
    scale: Positive = 10.0
    """decibels that the model calls one"""
