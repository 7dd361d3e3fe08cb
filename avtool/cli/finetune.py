"""``avtool finetune``: a pretrained model, a recipe and prepared data in, a run folder with a model for a task out."""

from typing import Annotated, Any

from avtool.cli.runs import TRAINING, start_training
from avtool.commands import RunSeed, Settings, argument, command, completing, examples, option
from avtool.errors import check_choice
from avtool.registry import TASKS

EPILOG = examples(
    "avtool finetune classify --recipe tiny-classify --from runs/MY_RUN",
    "avtool finetune localize --recipe tiny-localize --from RUN --data DIR",
    "avtool finetune classify --recipe finetune-vggsound train.batch_size=64",
    next_command="avtool evaluate RUN --data DIR",
)

FINETUNED = [name for name, task in TASKS.items() if task.finetuned]
complete_tasks = completing(lambda: FINETUNED)


@command(*TRAINING)
def finetune(
    task: Annotated[
        str, argument("TASK", f"{', '.join(FINETUNED)}.", usual=False, autocompletion=complete_tasks)
    ],
    settings: Settings = None,
    *,
    start: Annotated[
        str | None, option("MODEL", "Run, checkpoint, name, or none.", "--from", usual="the recipe's")
    ] = None,
    allow_random: Annotated[
        bool, option(None, "Allow random fusion weights, as a control.", "--allow-random")
    ] = False,
    seed: RunSeed = None,
    **options: Any,
) -> None:
    """Fine-tune a pretrained model for a task.

    The encoder is that of the model it starts from; model.image_size, model.audio_size and spectrogram.* can be others.
    The best weights, chosen on a part of the training split, are kept in RUN/best, the last ones in RUN/checkpoints.
    Settings are keys of the recipe, as optim.base_lr=1e-4.
    """
    check_choice("TASK", task, FINETUNED)
    begun = () if start is None else (f"init.model={start}",)
    start_training(task, [*(settings or ()), *begun], seed=seed, allow_random=allow_random, **options)
