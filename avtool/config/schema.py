"""The closed, typed schema of recipes: every key, what it means, and which values go together.

The text under a key is its description: it is shown where a value of that key is wrong.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from avtool.published import TIMM


def _number(value: Any) -> Any:
    """YAML reads 1e-4 (no point in it) as text: make such text the number it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _whole(value: Any) -> Any:
    number = _number(value) if isinstance(value, str) else value
    return int(number) if isinstance(number, float) and number.is_integer() else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Number = Annotated[float, BeforeValidator(_number)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
ShareBelow1 = Annotated[Number, Field(ge=0, lt=1)]
PartialShare = Annotated[Number, Field(gt=0, lt=1)]
Whole = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Size = Annotated[tuple[Whole, Whole], BeforeValidator(_tuple)]
Pair = Annotated[tuple[Number, Number], BeforeValidator(_tuple)]
Betas = Annotated[tuple[ShareBelow1, ShareBelow1], BeforeValidator(_tuple)]
Tokens = Annotated[tuple[Count, Count, Count], BeforeValidator(_tuple)]
Fold = Annotated[tuple[Whole, Whole], BeforeValidator(_tuple)]
Layers = Literal["all", "none"] | Annotated[tuple[Count, ...], BeforeValidator(_tuple)]
Text = Annotated[str, Field(min_length=1)]


def _fault(key: str, message: str) -> PydanticCustomError:
    """An error of values that do not go together, laid at ``key``, relative to the section that raises it."""
    return PydanticCustomError("fault", "{message}", {"key": key, "message": message})


class Section(BaseModel):
    """A part of a recipe: no unknown keys, no silent conversions, never changed after it was read."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


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
            raise _fault("crop_scale", f"[{low}, {high}] is not 0 < low <= high <= 1")
        if self.fold and not self.fold[0] <= self.fold[1] >= 2:
            raise _fault("fold", f"{[*self.fold]} is not a fold from [1, n] to [n, n] of at least 2")
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
            raise _fault(
                "hop", f"{self.hop} is more than spectrogram.n_fft {self.n_fft}: sound between would be lost"
            )
        return self


class Fusion(Section):
    kind: Literal["token", "dense", "factorized"]
    """token, dense or factorized"""
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
            raise _fault(
                "pair_dropout",
                f"{self.pair_dropout:g} cannot be had: the softmax over pairs is computed in factored form, "
                "which never builds the pairs and so has no dropout over them",
            )
        if self.layers not in ("none", ()) and self.tokens[0] == 0:
            raise _fault("tokens", "fusion blocks need at least one fusion token")
        if self.kind == "factorized" and self.layers not in ("none", ()) and 0 in self.tokens:
            raise _fault(
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
                raise _fault(
                    key, f"{[*getattr(self, key)]} is not divisible by model.patch_size {self.patch_size}"
                )
        for prefix, part in (("", self), ("decoder.", self.decoder)):
            if part.dim % part.heads:
                raise _fault(
                    f"{prefix}dim", f"{part.dim} is not divisible by model.{prefix}heads {part.heads}"
                )
            if part.dim % 4:
                raise _fault(
                    f"{prefix}dim", f"{part.dim} is not divisible by 4, which sin-cos positions need"
                )
        self._check_fusion()
        self._check_masks()
        return self

    def _check_fusion(self) -> None:
        layers = self.fusion.layers
        if isinstance(layers, tuple):
            if late := [layer for layer in layers if layer >= self.depth]:
                raise _fault(
                    "fusion.layers",
                    f"layer {late[0]} is not there: model.depth {self.depth} has 0 to {self.depth - 1}",
                )
            if len(set(layers)) != len(layers):
                raise _fault("fusion.layers", f"{[*layers]} names a layer twice")
        width = round(self.dim * self.fusion.attn_ratio, 6)
        if width % self.heads:
            raise _fault(
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
                raise _fault(
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
            raise _fault(
                "audio", "timm's ViTs read pictures; sound starts from audiomae-vitb, a path or none"
            )
        return self


class Classify(Section):
    probe: bool = False
    """train heads alone, on a frozen encoder: true or false"""
    multi_label: bool = False
    """whether a clip may have several classes at once (clips with several are left out otherwise)"""
    mixup: NotNegative = 0.0
    """alpha of mixup's Beta distribution, for image and sound; 0: none"""
    cutmix: NotNegative = 0.0
    """alpha of cutmix's Beta distribution, for image and sound; 0: none"""
    blank: ShareBelow1 = 0.0
    """share of the samples in which either the picture is blank or the sound is silent, each half of the time"""
    smoothing: ShareBelow1 = 0.0
    """share of a label that is spread over all classes"""
    class_weights: bool = False
    """whether rare classes count more, by inverse frequency: true or false"""
    odds_bias: bool = False
    """whether the heads' biases start at the classes' log odds: true or false"""


class Localize(Section):
    way: Literal["two-pass", "joint"] = "two-pass"
    """two-pass: image and sound encoded each with the other one blank; joint: a frame encoded with several sounds"""
    score: Literal["max", "soft"] = "soft"
    """how a map's cells become a score: max, or soft (log of the mean of exponentials)"""
    candidates: Annotated[Whole, Field(ge=2)] = 4
    """sounds that a frame is encoded with, its own among them (joint)"""
    temperature: Positive = 0.07
    """of the contrast between pairs"""
    width: Whole = 128
    """of the space in which patches and sounds are compared (two-pass)"""
    blank_share: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """share of the blank modality's patches that is encoded, evenly spaced: fewer take less time (two-pass)"""


class Separate(Section):
    sources: Annotated[Whole, Field(ge=2)] = 2
    """clips that are summed to a mixture"""
    target: Literal["ratio", "binary", "published"] = "ratio"
    """ratio: S / sum of S; binary: S above all others; published: S / (S + mixture)"""
    weighted: bool = True
    """whether loud places of the mixture count more: true or false"""


class Segment(Section):
    semantic: bool = False
    """whether every class has a mask of its own (AVSS), or what sounds has one mask (S4, MS3)"""
    overlap: NotNegative = 0.0
    """weight of a loss of soft intersection over union, added to the pixels' cross-entropy; 0: none"""


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
    pretrained_ramp: Share = 0.5
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
FINETUNED = ("classify", "localize", "separate", "segment")
"""The tasks that a pretrained encoder is fine-tuned for; each has a section of its name."""


class Recipe(Section):
    """A whole recipe, resolved."""

    task: Literal["pretrain", "classify", "localize", "separate", "segment"]
    """pretrain, classify, localize, separate or segment"""
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
    classify: Classify | None = None
    """settings of task classify"""
    localize: Localize | None = None
    """settings of task localize"""
    separate: Separate | None = None
    """settings of task separate"""
    segment: Segment | None = None
    """settings of task segment"""
    optim: Optim = Optim()
    """the optimizer and its schedule"""
    train: Train
    """the training loop"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.epochs is None and self.max_steps is None:
            raise _fault("max_steps", "neither max_steps nor epochs says how long to train")
        if self.task == PRETRAIN:
            for part in ("image", "audio"):
                if getattr(self.init, part) is None:
                    raise _fault(f"init.{part}", "it is missing; pretraining says where each encoder starts")
            if self.init.model is not None:
                raise _fault("init.model", "pretraining starts from init.image and init.audio")
        for task in FINETUNED:
            given = getattr(self, task) is not None
            if given and task != self.task:
                raise _fault(task, f"this recipe is of task {self.task}")
            if not given and task == self.task:
                raise _fault(task, "it is missing; {} takes every default")
        return self

    @property
    def window_seconds(self) -> float:
        """Length of the sound one sample hears, in seconds."""
        return self.model.audio_size[1] * self.spectrogram.hop / self.spectrogram.sample_rate
