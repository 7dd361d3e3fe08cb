"""Segmentation: which pixels of a frame sound."""

from avtool.tasks import Task

TASK = Task(
    name="segment",
    section="avtool.tasks.segment.recipe:Segment",
    training="avtool.tasks.segment.train:Segmentation",
    kinds={"segmentation": "avtool.model.unet:SegmentationModel"},
    head="avtool.tasks.segment.recipe:Masks",
    evaluation="avtool.tasks.segment.protocols:EVALUATION",
    protocols=("avs-tpavi", "avs-jf", "avs-published", "avs-semantic", "negative-audio"),
    command="avtool.tasks.segment.command:segment",
    limits="It marks things like those with masks in its training data, and cannot tell one of a kind from another.",
)
