"""The closed, typed schema of recipes: every key, what it means, and which values go together.

The text under a key is its description: it is shown where a value of that key is wrong.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, create_model, model_validator
from pydantic_core import PydanticCustomError

from avtool.config.types import (
    Betas,
    Count,
    Fold,
    Layers,
    NotNegative,
    Number,
    Pair,
    PartialShare,
    Positive,
    Section,
    Share,
    ShareBelow1,
    Size,
    Text,
    Tokens,
    Whole,
    fault,
)
from avtool.published import TIMM
from avtool.registry import FUSIONS, TASKS


def _one_of(names: Collection[str]) -> AfterValidator:
    """That a text is one of ``names``."""

    def check(name: str) -> str:
        if name not in names:
            *all_but_last, last = map(repr, names)
            expected = f"{', '.join(all_but_last)} or {last}"
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return name

    return AfterValidator(check)


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


class Spectrogram(Section):
    sample_rate: Whole = 16000
    """samples a second"""
    n_fft: Whole = 800
    """samples in one analysis window"""
    hop: Whole = 250
    """samples from one frame to the next"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.hop > self.n_fft:
            raise fault(
                "hop", f"{self.hop} is more than spectrogram.n_fft {self.n_fft}: sound between would be lost"
            )
        return self


class Fusion(Section):
    kind: Annotated[str, _one_of(FUSIONS)]
    """how fusion tokens read the others, as factorized"""
    layers: Layers = "all"
    """layers with a fusion block: all, none, or a list of numbers from 0, as [0, 2]"""
    tokens: Tokens = (16, 8, 8)
    """[fusion, image-aggregating, audio-aggregating] learned tokens, as [16, 8, 8]"""
    attn_ratio: Positive = 0.25
    """width of queries and keys over model.dim"""
    mlp_ratio: Positive = 1.0
    """hidden width of the fusion blocks' MLP over model.dim"""
    pair_dropout: Number = 0.0
    """dropout on the attention over pairs: 0 only"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pair_dropout != 0:
            raise fault(
                "pair_dropout",
                f"{self.pair_dropout:g} cannot be had: the softmax over pairs is computed in factored form, "
                "which never builds the pairs and so has no dropout over them",
            )
        if self.layers not in ("none", ()) and self.tokens[0] == 0:
            raise fault("tokens", "fusion blocks need at least one fusion token")
        if self.kind == "factorized" and self.layers not in ("none", ()) and 0 in self.tokens:
            raise fault(
                "tokens", f"factorized needs at least one token of each of the three, not {[*self.tokens]}"
            )
        return self


class Decoder(Section):
    dim: Whole = 512
    """width of both decoders"""
    depth: Whole = 8
    """blocks in each decoder"""
    heads: Whole = 16
    """attention heads of the decoders"""


class MaskRatio(Section):
    image: PartialShare = 0.75
    """share of image patches removed, between 0 and 1"""
    audio: PartialShare = 0.8
    """share of audio patches removed, between 0 and 1"""


class Model(Section):
    image_size: Size = (224, 224)
    """[height, width] of the frame in pixels, as [224, 224]"""
    audio_size: Size = (128, 192)
    """[mel bands, frames] of the log-mel, as [128, 192]"""
    patch_size: Whole = 16
    """side of a square patch, in pixels and in log-mel bins"""
    dim: Whole = 768
    """width of both encoders"""
    depth: Whole = 12
    """layers of both encoders"""
    heads: Whole = 12
    """attention heads of the encoders"""
    mlp_ratio: Positive = 4.0
    """hidden width of the encoders' MLP over model.dim"""
    fusion: Fusion
    """the fusion blocks"""
    decoder: Decoder = Decoder()
    """the two decoders"""
    mask_ratio: MaskRatio = MaskRatio()
    """shares of patches removed"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for key in ("image_size", "audio_size"):
            if any(side % self.patch_size for side in getattr(self, key)):
                raise fault(
                    key, f"{[*getattr(self, key)]} is not divisible by model.patch_size {self.patch_size}"
                )
        for prefix, part in (("", self), ("decoder.", self.decoder)):
            if part.dim % part.heads:
                raise fault(
                    f"{prefix}dim", f"{part.dim} is not divisible by model.{prefix}heads {part.heads}"
                )
            if part.dim % 4:
                raise fault(f"{prefix}dim", f"{part.dim} is not divisible by 4, which sin-cos positions need")
        self._check_fusion()
        self._check_masks()
        return self

    def _check_fusion(self) -> None:
        layers = self.fusion.layers
        if isinstance(layers, tuple):
            if late := [layer for layer in layers if layer >= self.depth]:
                raise fault(
                    "fusion.layers",
                    f"layer {late[0]} is not there: model.depth {self.depth} has 0 to {self.depth - 1}",
                )
            if len(set(layers)) != len(layers):
                raise fault("fusion.layers", f"{[*layers]} names a layer twice")
        width = round(self.dim * self.fusion.attn_ratio, 6)
        if width % self.heads:
            raise fault(
                "fusion.attn_ratio",
                f"{self.fusion.attn_ratio:g} of model.dim {self.dim} is {width:g}, "
                f"not divisible by model.heads {self.heads}",
            )

    def _check_masks(self) -> None:
        for name, (rows, columns) in (("image", self.image_size), ("audio", self.audio_size)):
            patches = rows * columns // self.patch_size**2
            ratio = getattr(self.mask_ratio, name)
            kept = int(patches * (1 - ratio))
            if not 0 < kept < patches:
                raise fault(
                    f"mask_ratio.{name}",
                    f"{ratio:g} keeps {kept} of {patches} patches; 1 to {patches - 1} are needed",
                )


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
    name: Literal["adamw", "lars"] = "adamw"
    """adamw or lars"""
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


PRETRAIN = "pretrain"
TRAINED = tuple(name for name, task in TASKS.items() if task.training)
FINETUNED = tuple(name for name, task in TASKS.items() if task.finetuned)
"""The tasks that a pretrained encoder is fine-tuned for; each has a section of its name."""


class _Beginning(Section):
    task: Annotated[str, _one_of(TRAINED)]
    """what is trained: a task's name, as pretrain or classify"""
    seed: Count = 0
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
            name: (TASKS[name].settings() | None, Field(default=None, description=f"settings of task {name}"))
            for name in FINETUNED
        },
    )


class Recipe(_Middle):
    """A whole recipe, resolved. A task's own settings are in the section of its name."""

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
        for task in FINETUNED:
            given = getattr(self, task) is not None
            if given and task != self.task:
                raise fault(task, f"this recipe is of task {self.task}")
            if not given and task == self.task:
                raise fault(task, "it is missing; {} takes every default")
        return self

    @property
    def options(self) -> Any:
        """The section of the recipe's task; None where it has none."""
        return getattr(self, self.task, None)

    @property
    def window_seconds(self) -> float:
        """Length of the sound one sample hears, in seconds."""
        return self.model.audio_size[1] * self.spectrogram.hop / self.spectrogram.sample_rate
