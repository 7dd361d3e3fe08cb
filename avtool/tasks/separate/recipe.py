"""The recipe's section of separation."""

from typing import Annotated, Literal

from pydantic import Field

from avtool.config.types import Section, Whole


class Decoder(Section):
    """What the model needs."""

    decoder_width: Whole | None = None
    """width of the decoder's narrowest maps, which are its largest; none: a sixteenth of the encoder's, as published"""


class Separate(Decoder):
    sources: Annotated[Whole, Field(ge=2)] = 2
    """clips that are summed to a mixture"""
    target: Literal["ratio", "binary", "published"] = "ratio"
    """ratio: S / sum of S; binary: S above all others; published: S / (S + mixture)"""
    weighted: bool = True
    """whether loud places of the mixture count more: true or false"""
