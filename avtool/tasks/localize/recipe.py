"""The recipe's section of localization."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from avtool.config.types import Number, PartialShare, Positive, Section, ShareBelow1, Whole, fault


class Localizer(Section):
    """What the model needs."""

    encoding: Literal["unimodal", "joint"] = "unimodal"
    """unimodal: image and sound encoded each with the other one blank; joint: a frame encoded with several sounds"""
    width: Whole = 128
    """of the space in which patches and sounds are compared (unimodal)"""
    blank_share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """share of the blank modality's patches that is encoded, evenly spaced: fewer take less time (unimodal)"""
    map_scale: Annotated[Number, Field(ge=0.5, le=4)] = 1.0
    """a map is of the frame enlarged by so much: training's crops show things larger than a whole frame does"""
    map_shifts: Literal[1, 2, 4] = 1
    """a map is the mean over so many places of the grid of patches, each way: finer, and takes so many times as long,
    squared"""


class Clusters(Section):
    count: Annotated[Whole, Field(ge=2)] = 20
    """how many clusters of sounds there are: two to four times as many as kinds of sound"""
    share: PartialShare = 0.45
    """share of the steps in which a clip's sound is its cluster's vector; after them both encoders learn by contrast"""


class Localize(Localizer):
    pooling: Literal["max", "logsumexp"] = "logsumexp"
    """how a map's cells become a score: max, or logsumexp (log of the mean of exponentials)"""
    candidates: Annotated[Whole, Field(ge=2)] = 4
    """sounds that a frame is encoded with, its own among them (joint)"""
    temperature: Positive = 0.07
    """of the contrast between pairs"""
    negatives: ShareBelow1 = 0.0
    """share of training windows whose sound is replaced by silence or noise, so that nothing in view sounds; 0: none"""
    clusters: Clusters | None = None
    """learn from clusters of the sounds first, found without labels before training; null: not (unimodal)"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.clusters and self.encoding != "unimodal":
            alone = "clusters are of unimodal alone; localize.clusters=null leaves them out"
            raise fault("clusters", f"localize.encoding is {self.encoding}: {alone}")
        if self.clusters and self.clusters.count > self.width:
            what = (
                f"{self.clusters.count} vectors at right angles do not fit into localize.width {self.width}"
            )
            raise fault("clusters.count", what)
        return self
