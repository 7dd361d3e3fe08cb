"""``avtool pretrain``: a recipe and prepared data in, a run folder with checkpoints out."""

from typing import Any

from avtool.cli.runs import TRAINING, start_training
from avtool.commands import RunSeed, Settings, command, examples

EPILOG = examples(
    "avtool pretrain --recipe tiny",
    "avtool pretrain --recipe dense --dry-run train.batch_size=64",
    "avtool pretrain --recipe tiny --data data/prepared/my_clips max_steps=200",
    "torchrun --nproc-per-node 8 -m avtool pretrain --recipe dense",
    next_command="avtool finetune classify --recipe tiny-classify --from RUN",
)


@command(*TRAINING)
def pretrain(settings: Settings = None, *, seed: RunSeed = None, **options: Any) -> None:
    """Pretrain by masked reconstruction of image and sound.

    Settings are keys of the recipe, as optim.base_lr=1e-4 or model.fusion.tokens=[8,4,4].
    """
    start_training("pretrain", settings or (), seed=seed, **options)
