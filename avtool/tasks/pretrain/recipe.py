"""The recipe's section of pretraining."""

from typing import Literal

from avtool.config.types import Positive, Section


class Pretrain(Section):
    objective: Literal["masked", "contrastive", "both"] = "masked"
    """masked: what was masked is reconstructed; contrastive: which sound belongs to which frame; or both"""
    contrast_weight: Positive = 0.1
    """weight of the contrastive loss beside the other one (both)"""
    temperature: Positive = 0.07
    """of the contrast between frames and sounds (contrastive, both)"""
