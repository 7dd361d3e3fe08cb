"""A package beside avtool: a task (how loud is it?), a kind of fusion and a data set. Nothing of avtool is edited."""

from avtool.tasks import Task

TASK = Task(
    name="loudness",
    section="loudness.recipe:Loudness",
    training="loudness.train:LoudnessTraining",
    kinds={"loudness": "loudness.train:LoudnessModel"},
    head="loudness.recipe:Loudness",
    evaluation="loudness.protocols:EVALUATION",
    protocols=("decibels",),
    command="loudness.command:loudness",
)
