"""The recipe's section of segmentation."""

from avtool.config.types import NotNegative, Section


class Segment(Section):
    semantic: bool = False
    """whether every class has a mask of its own (AVSS), or what sounds has one mask (S4, MS3)"""
    overlap: NotNegative = 0.0
    """weight of a loss of soft intersection over union, added to the pixels' cross-entropy; 0: none"""
