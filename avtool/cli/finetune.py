"""``avtool finetune``: a pretrained model, a recipe and prepared data in, a run folder with a model for a task out."""

from typing import Annotated

import typer

from avtool.cli.runs import Training
from avtool.commands import (
    Debug,
    Device,
    DryRun,
    Force,
    Out,
    PreparedData,
    RecipeName,
    Resume,
    RunSeed,
    Settings,
    StopAfter,
    Threads,
    command_line,
    examples,
    guarded,
    print_once,
    set_threads,
)
from avtool.registry import TASKS

EPILOG = examples(
    "avtool finetune classify --recipe tiny-classify --from runs/MY_RUN",
    "avtool finetune localize --recipe tiny-localize --from RUN --data DIR",
    "avtool finetune classify --recipe finetune-vggsound train.batch_size=64",
    next_command="avtool evaluate RUN --data DIR",
)

FINETUNED = [name for name, task in TASKS.items() if task.finetuned]


@guarded
def finetune(
    task: Annotated[
        str,
        typer.Argument(metavar="TASK", help=f"{', '.join(FINETUNED)}.", show_default=False),
    ],
    settings: Settings = None,
    *,
    recipe: RecipeName = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="Run, checkpoint, pulled name, or none.",
            show_default="the recipe's",
        ),
    ] = None,
    allow_random: Annotated[
        bool, typer.Option("--allow-random", help="Allow random fusion weights, as a control.")
    ] = False,
    data: PreparedData = None,
    out: Out = None,
    resume: Resume = False,
    stop_after: StopAfter = None,
    dry_run: DryRun = False,
    seed: RunSeed = None,
    device: Device = "auto",
    threads: Threads = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Fine-tune a pretrained model for a task.

    The sizes of the encoder are those of the model it starts from. The best weights, chosen on a part of the training
    split, are kept in RUN/best, the last ones in RUN/checkpoints. Settings are keys of the recipe, as
    optim.base_lr=1e-4.
    """
    from avtool.errors import check_choice

    check_choice("TASK", task, FINETUNED)
    begun = () if start is None else (f"init.model={start}",)
    training = Training.of(
        recipe, [*(settings or ()), *begun], data=data, out=out, resume=resume, seed=seed, task=task
    )
    set_threads(threads)
    if dry_run:
        from avtool.engine import plan_finetuning

        training.describe(plan_finetuning(training.recipe, allow_random=allow_random), device)
        return
    from avtool.engine import train

    print_once(
        train(
            training.recipe,
            data=training.data,
            out=training.out,
            allow_random=allow_random,
            device=device,
            resume=resume,
            stop_after=stop_after,
            force=force,
            command=command_line(),
        )
    )
