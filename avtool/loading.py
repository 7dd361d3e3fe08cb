"""A model in somebody else's program: ``avtool.load(...)`` and what it returns."""

import math
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from avtool.checkpoint import load_model, save_checkpoint
from avtool.config.checkpoint import Config
from avtool.devices import resolve_device
from avtool.errors import UsageError
from avtool.features import LogMel, normalize_frames, to_float_waveform
from avtool.files import check_output
from avtool.hub import CLASSES, CONFIG, fetch_model, parse_name
from avtool.model.encoder import AudioVisualEncoder, Tokens
from avtool.places import resolve_checkpoint, run_of
from avtool.push import CARD, model_card, push


@dataclass(frozen=True)
class Model:
    """A loaded model. ``module`` is all of it (a masked autoencoder, classifier, ... as ``config.kind`` says), a
    ``torch.nn.Module`` to train or to take apart; ``encoder`` the part of it that ``encode`` runs; ``log_mel`` its
    spectrogram; ``folder`` the checkpoint it was read from."""

    module: nn.Module
    log_mel: LogMel
    config: Config
    folder: Path

    @property
    def encoder(self) -> AudioVisualEncoder:
        encoder = self.module.encoder
        assert isinstance(encoder, AudioVisualEncoder)
        return encoder

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.encoder.fusion_tokens.device

    @property
    def sample_rate(self) -> int:
        """Samples a second of the sound that it hears."""
        return self.log_mel.sample_rate

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike[str],
        *,
        device: str | torch.device = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> "Model":
        """``avtool.load``; of a model on the hub, with the options of ``avtool.hub.fetch_model``. With a ``revision``
        no folder of that name counts."""
        asked = token or cache_dir or local_files_only or force_download
        if revision or (asked and not Path(model).exists()):
            model = fetch_model(
                str(model),
                revision=revision,
                token=token,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
                force_download=force_download,
            )
        return load(model, device)

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        name: str = "",
        licence: str | None = None,
        force: bool = False,
    ) -> Path:
        """Write the model as it is now into a new ``folder``, which is returned: model.safetensors, config.json, the
        names of its classes, and a model card that calls it ``name`` (see ``avtool.push.model_card``). UsageError where
        there is something, unless ``force`` and avtool wrote it."""
        folder = Path(folder)
        empty = folder.is_dir() and not any(folder.iterdir())
        check_output(folder, force=force or empty, markers=(CONFIG,), option="the folder")

        def beside(partial: Path) -> None:
            if (self.folder / CLASSES).is_file():
                shutil.copyfile(self.folder / CLASSES, partial / CLASSES)
            card = model_card(partial, name or str(folder), licence=licence, run=run_of(self.folder))
            (partial / CARD).write_text(card, encoding="utf-8")

        save_checkpoint(folder, model=self.module, config=self.config, beside=beside)
        return folder

    def push_to_hub(
        self, name: str, *, licence: str | None = None, private: bool = False, token: str | None = None
    ) -> str:
        """Put the model as it is now on the hub as ``name`` and return the commit's address: ``avtool.push.push`` of
        what ``save_pretrained`` writes."""
        repo, _ = parse_name(name)
        with TemporaryDirectory() as temporary:
            folder = self.save_pretrained(Path(temporary) / "model", name=repo, licence=licence)
            return push(folder, name, private=private, token=token)

    @torch.no_grad()
    def encode(self, image: Tensor, audio: Tensor) -> Tokens:
        """The tokens of B frames and their sounds, after the final norms, without gradient.

        ``image`` (B, 3, H, W) RGB: uint8, or floating point and normalised with ImageNet's mean and standard deviation
        already. ``audio``: a waveform (B, N) at ``sample_rate``, int16 or floating point in [-1, 1], of which N // hop
        frames are heard; or its log10 mel power (B, 1, mel, frames), as ``log_mel`` gives it. H, W and frames may be
        any that the patch divides, mel is the model's. Both on ``device``.

        Returns named fields ``image`` (B, H/p * W/p, D) and ``audio`` (B, mel/p * frames/p, D), in row-major order of
        their grids, and ``fusion`` (B, T, D). UsageError says which input does not fit, and what would.
        """
        image, audio = self._prepare_image(image), self._prepare_audio(audio)
        if len(image) != len(audio):
            raise UsageError(
                f"image has {len(image)} frames and audio {len(audio)} sounds", hint="give as many of each"
            )
        return self.encoder(image, audio)

    def _prepare_image(self, image: Tensor) -> Tensor:
        self._check_tensor("image", image)
        if image.ndim != 4 or image.shape[1] != 3:
            hint = "give (B, 3, H, W)"
            if image.ndim == 4 and image.shape[3] == 3:
                hint += ": image.permute(0, 3, 1, 2) puts the channels first"
            raise UsageError(f"image is of shape {tuple(image.shape)}, not (B, 3, H, W)", hint=hint)
        size = self.encoder.patch_size
        if not all(side and side % size == 0 for side in image.shape[2:]):
            rows, columns = (grid * size for grid in self.encoder.image_grid)
            raise UsageError(
                f"image is {image.shape[2]}x{image.shape[3]}, which patches of {size}x{size} do not divide",
                hint=f"resize it to {rows}x{columns}, which the model was made for, or to other multiples of {size}",
            )
        if image.dtype == torch.uint8:
            image = normalize_frames(image)
        else:
            _check_floats("image", image, _IMAGE_LIMIT, hint="give uint8, or normalise it as ImageNet is")
        return image.to(self.encoder.fusion_tokens.dtype)

    def _prepare_audio(self, audio: Tensor) -> Tensor:
        self._check_tensor("audio", audio)
        mels = self.encoder.audio_grid[0] * self.encoder.patch_size
        if audio.ndim == 2:
            self._check_frames(audio.shape[1] // self.log_mel.hop, f"{audio.shape[1]} samples")
            if audio.shape[1] <= self.log_mel.n_fft // 2:
                raise UsageError(
                    f"audio has {audio.shape[1]} samples, and the spectrogram needs more than "
                    f"{self.log_mel.n_fft // 2}",
                    hint="give a longer sound",
                )
            if audio.dtype == torch.int16:
                audio = to_float_waveform(audio)
            else:
                _check_floats("audio", audio, _SOUND_LIMIT, hint="give int16, or floating point in [-1, 1]")
            audio = self.log_mel.to(self.device)(audio.float())
        elif audio.ndim != 4 or audio.shape[1:3] != (1, mels) or not audio.is_floating_point():
            raise UsageError(
                f"audio is {audio.dtype} of shape {tuple(audio.shape)}, neither a waveform (B, N) nor a log-mel "
                f"(B, 1, {mels}, frames)",
                hint=f"give the waveform at {self.sample_rate} samples a second, or what model.log_mel gives for it",
            )
        else:
            self._check_frames(audio.shape[3], "a log-mel")
            _check_floats("audio", audio, _LOG_MEL_LIMIT, hint="give what model.log_mel gives for a waveform")
        return audio.to(self.encoder.fusion_tokens.dtype)

    def _check_frames(self, frames: int, what: str) -> None:
        size, hop = self.encoder.patch_size, self.log_mel.hop
        if frames and frames % size == 0:
            return
        made_for = self.encoder.audio_grid[1] * size
        raise UsageError(
            f"audio is {what} of {frames} frames, which patches of {size} frames do not divide",
            hint=f"cut or pad it to {made_for} frames ({made_for * hop} samples), which the model was made for, or to "
            f"other multiples of {size} frames ({size * hop} samples)",
        )

    def _check_tensor(self, name: str, value: Tensor) -> None:
        if not isinstance(value, Tensor):
            raise UsageError(
                f"{name} is a {type(value).__name__}, not a tensor", hint="torch.as_tensor makes one"
            )
        if value.layout is not torch.strided or value.is_complex() or value.is_quantized:
            kind = value.layout if value.layout is not torch.strided else value.dtype
            raise UsageError(f"{name} is a tensor of {kind}", hint="give a dense one of real numbers")
        if value.ndim and not len(value):
            raise UsageError(
                f"{name} is of shape {tuple(value.shape)}: there is nothing in it", hint="give at least one"
            )
        if value.device != self.device:
            raise UsageError(
                f"{name} is on {value.device}, the model on {self.device}",
                hint=f"{name}.to({str(self.device)!r}), or load the model with device={str(value.device)!r}",
            )


_IMAGE_LIMIT, _SOUND_LIMIT, _LOG_MEL_LIMIT = 10.0, 10.0, 100.0
"""Beyond any value of the right units (2.7, about 1 and about 10 at the most), and far below those of wrong ones."""


def _check_floats(name: str, value: Tensor, limit: float, *, hint: str) -> None:
    """UsageError where something is no floating point, not finite, or so large that it is in other units than it
    should be."""
    if not value.is_floating_point():
        raise UsageError(f"{name} is of {value.dtype}", hint=hint)
    if value.numel() and not (largest := value.abs().max().item()) <= limit:
        found = (
            f"has values up to {largest:g}" if math.isfinite(largest) else "has values that are not finite"
        )
        raise UsageError(f"{name} is floating point and {found}", hint=hint)


def load(model: str | os.PathLike[str], device: str | torch.device = "cpu") -> Model:
    """A model to run: ``model`` is a run, checkpoint or converted folder or, where there is none of that name, pulled
    weights or ``owner/name`` or ``owner/name@revision`` on the Hugging Face hub.

    It is in evaluation mode; its weights are mapped from the file, not copied, where ``device`` is the CPU. AvtoolError
    where there is no such model, or its files do not fit each other.
    """
    if not isinstance(model, str | os.PathLike):
        raise UsageError(
            f"the model to load is a {type(model).__name__}, neither a path nor a name",
            hint='avtool.load("runs/tiny-20250101-120000"), or the name of pulled weights or of a model on the hub',
        )
    folder = resolve_checkpoint(Path(model))
    module, log_mel, config = load_model(folder, device=resolve_device(str(device)))
    return Model(module=module, log_mel=log_mel, config=config, folder=folder)
