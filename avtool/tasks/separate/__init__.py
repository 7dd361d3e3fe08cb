"""Separation: what of a clip's sound belongs to its picture."""

from avtool.tasks import Task

TASK = Task(
    name="separate",
    section="avtool.tasks.separate.recipe:Separate",
    training="avtool.tasks.separate.train:Separation",
    kinds={"separation": "avtool.model.unet:SeparationModel"},
    head="avtool.tasks.separate.recipe:Decoder",
    evaluation="avtool.tasks.separate.protocols:EVALUATION",
    protocols=("bss-eval",),
    command="avtool.tasks.separate.command:separate",
    limits="It takes sums of clips apart; sources that were recorded in one room are another problem.",
)
