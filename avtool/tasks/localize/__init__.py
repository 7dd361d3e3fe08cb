"""Localization: where in the frame a clip's sound comes from."""

from avtool.tasks import Task

TASK = Task(
    name="localize",
    section="avtool.tasks.localize.recipe:Localize",
    training="avtool.tasks.localize.train:Localization",
    kinds={"localization": "avtool.model.localization:LocalizationModel"},
    head="avtool.tasks.localize.recipe:Localizer",
    evaluation="avtool.tasks.localize.protocols:EVALUATION",
    protocols=(
        *("pointing", "ciou-median", "ciou-adaptive", "ciou-fixed", "ciou-swept"),
        *("slavc-extended", "negative-audio"),
    ),
    command="avtool.tasks.localize.command:localize",
    limits="Its map says where a sound would come from, not whether anything in view sounds.",
)
