"""The closed, typed schema of recipes: every key, what it means, and which values go together.

The text under a key is its description: it is shown where a value of that key is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, PrivateAttr, create_model, model_validator

from avtool.config.model import Decoders, Encoder, Spectrogram, one_of
from avtool.config.types import (
    Betas,
    Count,
    Fold,
    NotNegative,
    Number,
    Pair,
    Positive,
    Section,
    Seed,
    Share,
    ShareBelow1,
    Text,
    Whole,
    fault,
)
from avtool.published import TIMM
from avtool.registry import PRETRAIN, TASKS, resolve


class Data(Section):
    name: Text
    """name of the prepared data set, as vggsound"""
    split: Text = "train"
    """split to train on; all means every split"""
    crop_scale: Pair = (0.5, 1.0)
    """[low, high] share of the frame's area that a crop keeps, as [0.5, 1.0]"""
    flip: bool = True
    """whether to flip frames left to right at random: true or false"""
    gain_db: NotNegative = 6.0
    """sound is made louder or softer by up to so many dB"""
    workers: Count = 2
    """processes that load data; 0 loads in the training process"""
    validation: ShareBelow1 = 0.1
    """share of the recordings of split that fine-tuning leaves out to choose its best checkpoint on"""
    fold: Fold | None = None
    """[k, n]: leave out fold k of n by recording, and evaluate on it; null: none"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise fault("crop_scale", f"[{low}, {high}] is not 0 < low <= high <= 1")
        if self.fold and not self.fold[0] <= self.fold[1] >= 2:
            raise fault("fold", f"{[*self.fold]} is not a fold from [1, n] to [n, n] of at least 2")
        return self


class Model(Decoders, Encoder):
    @model_validator(mode="after")
    def _check_masks(self) -> Self:
        for name, (rows, columns) in (("image", self.image_size), ("audio", self.audio_size)):
            patches = rows * columns // self.patch_size**2
            ratio = getattr(self.mask_ratio, name)
            kept = int(patches * (1 - ratio))
            if not 0 < kept < patches:
                raise fault(
                    f"mask_ratio.{name}",
                    f"{ratio:g} keeps {kept} of {patches} patches; 1 to {patches - 1} are needed",
                )
        return self


class Init(Section):
    model: Text | None = None
    """fine-tuning starts from the encoder of a run, a checkpoint or pulled weights, or from none"""
    image: Text | None = None
    """image encoder starts from mae-vitb, a path to weights, timm:NAME or timm:NAME@FILE (a ViT of timm's), or none"""
    audio: Text | None = None
    """audio encoder starts from audiomae-vitb, a path to weights, or none"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.audio is not None and self.audio.startswith(TIMM):
            raise fault("audio", "timm's ViTs read pictures; sound starts from audiomae-vitb, a path or none")
        return self


class Optim(Section):
    name: Literal["adamw", "lars", "muon"] = "adamw"
    """adamw, lars, or muon (matrices of blocks and U-Nets; AdamW for the rest): small models learn in fewer steps"""
    base_lr: Positive = 1.5e-4
    """learning rate at an effective batch of 256"""
    weight_decay: NotNegative = 0.05
    """weight decay of matrices"""
    layer_decay: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """the learning rate shrinks by this factor from each layer to the one below it; 1: it does not"""
    betas: Betas = (0.9, 0.95)
    """AdamW's two betas, each at least 0 and below 1, as [0.9, 0.95]"""
    warmup: ShareBelow1 = 0.2
    """share of the schedule spent in linear warm-up, below 1"""
    backbone_warmup: Share = 0.5
    """share of the schedule over which what starts from weights ramps up to its learning rate"""
    clip_grad: Positive | None = None
    """largest norm of the gradient; null: not clipped"""


class Train(Section):
    batch_size: Whole
    """clips in a batch, of all processes"""
    accumulate: Whole = 1
    """batches whose gradients make one step"""
    precision: Literal["auto", "float32", "bf16", "fp16"] = "auto"
    """auto, float32, bf16 or fp16 (with a scaled loss, for GPUs without bf16)"""
    keep_patches: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """share of each modality's patches that a training step encodes, drawn anew for each sample (classify, localize)"""
    drop_path: ShareBelow1 = 0.0
    """share of the samples that skip a branch of the last layer; rises from 0 in the first"""
    activation_checkpointing: bool = False
    """compute each layer twice and keep less of it in memory: true or false"""
    compile: bool = False
    """whether torch.compile makes the model's kernels: true or false"""
    log_every: Whole = 10
    """steps between two lines of metrics.jsonl"""
    save_every: Whole = 1000
    """steps between two checkpoints"""
    keep: Whole = 2
    """newest checkpoints that are kept"""
    keep_every: Count = 0
    """checkpoints whose step is a multiple of this are kept as well; 0: none"""
    eval_clips: Count = 400
    """held-out clips that are measured before and after training; 0: none"""
    eval_every: Count = 0
    """steps between two more such measurements while training; 0: none"""
    tensorboard: bool = False
    """whether the log goes to TensorBoard as well (pip install 'avtool[tensorboard]'): true or false"""
    logger: Literal["wandb", "trackio"] | None = None
    """the log goes to wandb or trackio as well (pip install 'avtool[wandb]', 'avtool[trackio]'); null: to neither"""


TRAINED = tuple(name for name, task in TASKS.items() if task.training)


class _Beginning(Section):
    task: Annotated[str, one_of(TRAINED)]
    """what is trained: a task's name, as pretrain or classify"""
    seed: Seed = 0
    """seed of everything drawn at random"""
    epochs: Positive | None = None
    """schedule's length: how often the data are gone through"""
    max_steps: Whole | None = None
    """schedule's length in steps; wins over epochs"""
    data: Data
    """what to train on"""
    spectrogram: Spectrogram = Spectrogram()
    """how sound becomes a log-mel"""
    model: Model
    """the two encoders, fusion blocks and decoders"""
    init: Init
    """where the encoders start from; random weights only where none is said"""


if TYPE_CHECKING:
    _Middle = _Beginning
else:
    _Middle = create_model(
        "_Middle",
        __base__=_Beginning,
        **{
            name: (resolve(task.section) | None, Field(default=None, description=f"settings of task {name}"))
            for name, task in TASKS.items()
            if task.section
        },
    )


class Recipe(_Middle):
    """A whole recipe, resolved. A task's own settings are in the section of its name."""

    _asked: dict[tuple[str, ...], str] = PrivateAttr(default_factory=dict)

    optim: Optim = Optim()
    """the optimizer and its schedule"""
    train: Train
    """the training loop"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is None and self.max_steps is None:
            raise fault("max_steps", "neither max_steps nor epochs says how long to train")
        if self.task == PRETRAIN:
            for part in ("image", "audio"):
                if getattr(self.init, part) is None:
                    raise fault(f"init.{part}", "it is missing; pretraining says where each encoder starts")
            if self.init.model is not None:
                raise fault("init.model", "pretraining starts from init.image and init.audio")
        for name, task in TASKS.items():
            given = getattr(self, name, None) is not None
            if given and name != self.task:
                raise fault(name, f"this recipe is of task {self.task}")
            if not given and name == self.task and task.finetuned:
                raise fault(name, "it is missing; {} takes every default")
        return self

    @property
    def asked(self) -> dict[tuple[str, ...], str]:
        """Keys that a file of one's own or an argument gave, no shipped recipe, and where that was."""
        return self._asked

    @property
    def options(self) -> Any:
        """The section of the recipe's task; None where it has none."""
        return getattr(self, self.task, None)
