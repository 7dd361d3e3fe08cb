"""What a model is made of: the sections that a recipe and a checkpoint's config.json have in common."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from avtool.config.types import Layers, Number, PartialShare, Positive, Section, Size, Tokens, Whole, fault
from avtool.registry import FUSIONS


def one_of(names: Collection[str]) -> AfterValidator:
    """That a text is one of ``names``."""

    def check(name: str) -> str:
        if name not in names:
            *all_but_last, last = map(repr, names)
            expected = f"{', '.join(all_but_last)} or {last}"
            raise PydanticCustomError("literal_error", "Input should be {expected}", {"expected": expected})
        return name

    return AfterValidator(check)


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

    def window(self, frames: int) -> int:
        """Samples of the window whose spectrogram has ``frames`` frames."""
        return frames * self.hop


class Fusion(Section):
    kind: Annotated[str, one_of(FUSIONS)]
    """how fusion tokens read the others, as factorized"""
    layers: Layers = "all"
    """layers with a fusion block: all, none, or a list of numbers from 0, as [0, 2]"""
    tokens: Tokens = (16, 8, 8)
    """[fusion, image-aggregating, audio-aggregating] learned tokens, as [16, 8, 8]"""
    attn_ratio: Positive = 0.25
    """width of queries and keys over model.dim"""
    mlp_ratio: Positive = 1.0
    """hidden width of the fusion blocks' MLP over model.dim"""
    rank: Whole | None = None
    """of bilinear alone: rank of the product of a pair's two tokens, in each head; null: 4"""
    pair_dropout: Annotated[Number, Field(exclude=True)] = 0.0
    """dropout on the attention over pairs: 0 only, and so never written"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.pair_dropout != 0:
            raise fault(
                "pair_dropout",
                f"dropout over pairs is not supported ({self.pair_dropout:g}): the softmax over pairs is factored and "
                "never builds them",
            )
        if self.rank is not None and self.kind != "bilinear":
            raise fault("rank", f"{self.kind} has no product of tokens, so no rank: leave it out")
        if self.layers not in ("none", ()) and self.tokens[0] == 0:
            raise fault("tokens", "fusion blocks need at least one fusion token")
        if self.kind == "factorized" and self.layers not in ("none", ()) and 0 in self.tokens:
            raise fault(
                "tokens", f"factorized needs at least one token of each of the three, not {[*self.tokens]}"
            )
        return self


class Blocks(Section):
    dim: Whole
    """width"""
    depth: Whole
    """blocks, one after the other"""
    heads: Whole
    """attention heads"""

    @model_validator(mode="after")
    def _check_width(self) -> Self:
        if self.dim % self.heads:
            raise fault("dim", f"{self.dim} is not divisible by its {self.heads} heads")
        if self.dim % 4:
            raise fault("dim", f"{self.dim} is not divisible by 4, which sin-cos positions need")
        return self


class Decoder(Blocks):
    dim: Whole = 512
    """width of both decoders"""
    depth: Whole = 8
    """blocks in each decoder"""
    heads: Whole = 16
    """attention heads of the decoders"""


class Transformer(Blocks):
    """The encoder of one modality."""

    dim: Whole = 768
    """width of both encoders"""
    depth: Whole = 12
    """layers of both encoders"""
    heads: Whole = 12
    """attention heads of the encoders"""
    mlp_ratio: Positive = 4.0
    """hidden width of the encoders' MLP over model.dim"""
    patch_size: Whole = 16
    """side of a square patch, in pixels and in log-mel bins"""


class Vit(Transformer):
    """A published encoder of one modality, a starting point."""

    channels: Whole
    """3 of pictures, 1 of sound"""


class Encoder(Transformer):
    """Both encoders and what fuses them."""

    image_size: Size = (224, 224)
    """[height, width] of the frame in pixels, as [224, 224]"""
    audio_size: Size = (128, 192)
    """[mel bands, frames] of the log-mel, as [128, 192]"""
    fusion: Fusion
    """the fusion blocks"""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        for key in ("image_size", "audio_size"):
            sides, patch = [*getattr(self, key)], self.patch_size
            if any(side % patch for side in sides):
                near = [max(1, round(side / patch)) * patch for side in sides]
                raise fault(key, f"{sides} is not divisible by model.patch_size {patch}; {near} is")
        return self

    @model_validator(mode="after")
    def _check_fusion(self) -> Self:
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
        return self


class MaskRatio(Section):
    image: PartialShare = 0.75
    """share of image patches removed, between 0 and 1"""
    audio: PartialShare = 0.8
    """share of audio patches removed, between 0 and 1"""


class Decoders(Section):
    """What stands on the encoder in pretraining."""

    decoder: Decoder = Decoder()
    """the two decoders"""
    mask_ratio: MaskRatio = MaskRatio()
    """shares of patches removed"""
