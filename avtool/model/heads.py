"""Classification heads on pooled tokens: fine-tuned with the encoder, or as a linear probe of a frozen one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from avtool.model.encoder import AudioVisualEncoder, Tokens


class ClassLogits(NamedTuple):
    """Logits (B, C) of each stream's head, and ``mean``, their mean: the prediction."""

    image: Tensor
    audio: Tensor
    fusion: Tensor
    mean: Tensor


def pool(tokens: Tokens) -> Tokens:
    """The mean over each stream's tokens: (B, T, D) -> (B, D)."""
    return Tokens(*(stream.mean(dim=1) for stream in tokens))


class AudioVisualClassifier(nn.Module):
    """The encoder and one linear head a stream (DeepAVFusion, arXiv 2312.01017, section 4).

    ``classes`` is their number C. ValueError for an encoder without fusion tokens.
    """

    def __init__(self, encoder: AudioVisualEncoder, *, classes: int) -> None:
        super().__init__()
        if encoder.fusion_tokens.shape[1] == 0:
            raise ValueError("the fusion head reads fusion tokens, and this encoder has none")
        self.encoder = encoder
        self.image_head = nn.Linear(encoder.dim, classes)
        self.audio_head = nn.Linear(encoder.dim, classes)
        self.fusion_head = nn.Linear(encoder.dim, classes)

    def reset_head(self) -> None:
        """Starting weights of everything but the encoder: small normal ones (0.01) and zero biases, so that all classes
        begin nearly alike."""
        for head in (self.image_head, self.audio_head, self.fusion_head):
            nn.init.normal_(head.weight, std=0.01)
            nn.init.zeros_(head.bias)

    def forward(self, image: Tensor, audio: Tensor, **options: Tensor | None) -> ClassLogits:
        """(B, 3, H, W), (B, 1, mel, frames) as the encoder takes them -> logits (B, C). ``options``: the encoder's
        ``image_keep``, ``audio_keep`` and ``path_noise``."""
        return self.logits(*pool(self.encoder(image, audio, **options)))

    def logits(self, image: Tensor, audio: Tensor, fusion: Tensor) -> ClassLogits:
        """What the heads say of the pooled streams (B, D): logits (B, C) and their mean."""
        image, audio, fusion = self.image_head(image), self.audio_head(audio), self.fusion_head(fusion)
        return ClassLogits(image, audio, fusion, (image + audio + fusion) / 3)


class LinearProbe(AudioVisualClassifier):
    """A linear head a stream on a frozen encoder, each behind a BatchNorm without gain and bias (as MAE's probe).

    The encoder gets no gradient and stays in eval mode: only the heads and the BatchNorms' statistics are trained.
    """

    def __init__(self, encoder: AudioVisualEncoder, *, classes: int) -> None:
        super().__init__(encoder.requires_grad_(False).eval(), classes=classes)
        self.image_norm, self.audio_norm, self.fusion_norm = (
            nn.BatchNorm1d(encoder.dim, affine=False, eps=1e-6) for _ in range(3)
        )

    def reset_head(self) -> None:
        """The same, and no statistics yet."""
        super().reset_head()
        for norm in (self.image_norm, self.audio_norm, self.fusion_norm):
            norm.reset_parameters()

    def train(self, mode: bool = True) -> LinearProbe:
        """As torch's, but for the encoder, which never trains."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, image: Tensor, audio: Tensor, **options: Tensor | None) -> ClassLogits:
        """The same; ``path_noise`` means nothing to an encoder that does not train."""
        with torch.no_grad():
            image, audio, fusion = pool(self.encoder(image, audio, **options))
        return self.logits(self.image_norm(image), self.audio_norm(audio), self.fusion_norm(fusion))


@torch.no_grad()
def start_at_log_odds(model: AudioVisualClassifier, share: Tensor) -> None:
    """Set the biases of all three heads to log(p / (1 - p)), so that training begins at the classes' frequencies.

    ``share`` (C,) is each class's share p of the training clips. ValueError where one is not within (0, 1), or where
    there are not C of them. Source: the prior of RetinaNet (arXiv 1708.02002, sections 3.3 and 4.1).
    """
    classes = model.image_head.out_features
    if share.shape != (classes,):
        raise ValueError(f"{classes} classes need as many shares, not shape {tuple(share.shape)}")
    outside = ((share <= 0) | (share >= 1)).nonzero().flatten().tolist()
    if outside:
        raise ValueError(f"the share of class {outside[0]} is {share[outside[0]]:g}, which has no log odds")
    for head in (model.image_head, model.audio_head, model.fusion_head):
        head.bias.copy_(share.double().logit())
