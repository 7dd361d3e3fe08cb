"""The recipe's section of localization."""

from typing import Annotated, Literal

from pydantic import Field

from avtool.config.types import Number, Positive, Section, ShareBelow1, Whole


class Localizer(Section):
    """What the model needs."""

    encoding: Literal["unimodal", "joint"] = "unimodal"
    """unimodal: image and sound encoded each with the other one blank; joint: a frame encoded with several sounds"""
    width: Whole = 128
    """of the space in which patches and sounds are compared (unimodal)"""
    blank_share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """share of the blank modality's patches that is encoded, evenly spaced: fewer take less time (unimodal)"""


class Localize(Localizer):
    pooling: Literal["max", "logsumexp"] = "logsumexp"
    """how a map's cells become a score: max, or logsumexp (log of the mean of exponentials)"""
    candidates: Annotated[Whole, Field(ge=2)] = 4
    """sounds that a frame is encoded with, its own among them (joint)"""
    temperature: Positive = 0.07
    """of the contrast between pairs"""
    negatives: ShareBelow1 = 0.0
    """share of training windows whose sound is replaced by silence or noise, so that nothing in view sounds; 0: none"""
