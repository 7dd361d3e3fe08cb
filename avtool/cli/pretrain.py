"""``avtool pretrain``: a recipe and prepared data in, a run folder with checkpoints out."""

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

EPILOG = examples(
    "avtool pretrain --recipe tiny",
    "avtool pretrain --recipe dense --dry-run train.batch_size=64",
    "avtool pretrain --recipe tiny --data data/prepared/my_clips max_steps=200",
    "torchrun --nproc-per-node 8 -m avtool pretrain --recipe dense",
    next_command="avtool finetune classify --recipe tiny-classify --from RUN",
)


@guarded
def pretrain(
    settings: Settings = None,
    *,
    recipe: RecipeName = None,
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
    """Pretrain by masked reconstruction of image and sound.

    Settings are keys of the recipe, as optim.base_lr=1e-4 or model.fusion.tokens=[8,4,4].
    """
    training = Training.of(
        recipe, settings or (), data=data, out=out, resume=resume, seed=seed, task="pretrain"
    )
    set_threads(threads)
    if dry_run:
        training.describe(training.recipe, device)
        return
    from avtool.engine import train

    run = train(
        training.recipe,
        data=training.data,
        out=training.out,
        device=device,
        resume=resume,
        stop_after=stop_after,
        force=force,
        command=command_line(),
    )
    print_once(run)
