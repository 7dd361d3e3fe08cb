"""The recipe's section of segmentation."""

from avtool.config.types import Classes, NotNegative, Section, Whole


class Decoder(Section):
    """What the model needs."""

    decoder_width: Whole = 128
    """width of the decoder's narrowest maps, which are its largest: half takes 0.4 of a step's time"""


class Masks(Decoder, Classes):
    """What config.json says of the decoder; ``classes`` is 1 for one mask of all that sounds."""


class Segment(Decoder):
    semantic: bool = False
    """whether every class has a mask of its own (AVSS), or what sounds has one mask (S4, MS3)"""
    overlap: NotNegative = 0.0
    """weight of a loss of soft intersection over union, added to the pixels' cross-entropy; 0: none"""
