"""The published weights that avtool knows by name, and where they are kept."""

from dataclasses import dataclass
from pathlib import Path

from avtool.places import cache_root, pulled_models

TIMM = "timm:"
"""What stands before the name of a ViT of timm's, where a recipe says what an encoder starts from."""
_DEEPAVFUSION = "https://media.githubusercontent.com/media/stoneMo/DeepAVFusion/main/"
_CONTENT = "the pretrained encoder and both decoders; the released weights hold no task head"


@dataclass(frozen=True)
class Published:
    """A file of published weights. ``size`` in bytes and ``sha256`` are None where nobody has published them."""

    base: str
    path: str
    size: int | None
    sha256: str | None
    licence: str
    content: str
    starts: str = ""
    """The recipe key that it is a starting point for, if it is the ViT of one modality."""

    def url(self, base: str | None = None) -> str:
        """Its address, with ``base`` in place of the publisher's."""
        return f"{(base or self.base).rstrip('/')}/{self.path}"


PUBLISHED = {
    "deepavfusion-vggsound": Published(
        base=_DEEPAVFUSION,
        path="checkpoints/deepavfusion_vitb_vggsound_ep200/checkpoints/checkpoint_latest.pth",
        size=1_282_543_933,
        sha256="51437180761408f651ec51847164038a8c180afb2f45639f07f8fced2e8e63db",
        licence="Apache-2.0",
        content=_CONTENT,
    ),
    "deepavfusion-audioset": Published(
        base=_DEEPAVFUSION,
        path="checkpoints/deepavfusion_vitb_as2m_ep200/checkpoints/checkpoint_latest.pth",
        size=1_516_280_189,
        sha256="109dbf04dbf86786a71ea0e2f8ac4762c9e19366887ea50d6260db8b96f5cd14",
        licence="Apache-2.0",
        content=_CONTENT,
    ),
    "audiomae-vitb": Published(
        base=_DEEPAVFUSION,
        path="assets/models/vitbase_audiomae_as2m.pth",
        size=548_136_466,
        sha256="2ac444b8df9264a40bdf78e09ea878497611fc1b05254f90aaaf573c94aaadde",
        licence="AudioMAE's own, see its repository",
        content="AudioMAE ViT-B of AudioSet-2M, a starting point for the audio encoder",
        starts="init.audio",
    ),
    "mae-vitb": Published(
        base="https://dl.fbaipublicfiles.com/",
        path="mae/pretrain/mae_pretrain_vit_base.pth",
        size=None,
        sha256=None,
        licence="CC BY-NC 4.0 (MAE): no commercial use",
        content="MAE ViT-B of ImageNet-1k, a starting point for the image encoder",
        starts="init.image",
    ),
}


def cached_file(name: str) -> Path:
    """Where the published file ``name`` is downloaded to, or put by hand."""
    return cache_root() / "weights" / f"{name}.pth"


def pulled_folder(name: str) -> Path:
    """Where the published weights ``name`` lie once they are converted."""
    if PUBLISHED[name].starts:
        return cache_root() / "weights" / name
    return pulled_models() / name
