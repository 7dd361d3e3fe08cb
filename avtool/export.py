"""Models as programs that need torch alone: ``torch.export`` of an encoder or classifier."""

from pathlib import Path

import torch
from torch import Tensor, nn

from avtool.errors import UsageError, check_choice
from avtool.features import IMAGE_MEAN, IMAGE_STD
from avtool.files import atomic_file, check_output, json_text
from avtool.loading import Model, load
from avtool.model.heads import AudioVisualClassifier, LinearProbe

ENCODER, CLASSIFIER = "encoder", "classifier"
DESCRIPTION = "avtool.json"


class _Named(nn.Module):
    """Outputs as a plain dict, which a process without this package can take."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        return self.module(image, audio)._asdict()


def export(model: Path, out: Path, *, kind: str | None = None, force: bool = False) -> dict[str, object]:
    """Write the encoder or classifier of ``model`` (a run, checkpoint or converted folder, or a pulled name) as the
    torch.export program ``out``, a .pt2 file, and return what it takes and gives.

    The program takes ``image`` float32 (B, 3, H, W), ImageNet-normalised, and ``audio`` float32 (B, 1, mel, frames),
    log10 mel power, of the sizes the model was made for and any B from 1; it gives a dict of tokens (image, audio,
    fusion) or of logits (image, audio, fusion, mean). ``kind``: encoder or classifier (None: classifier where the model
    is one). What is returned, with the spectrogram's settings, is in the file too, under ``avtool.json``. UsageError
    where a classifier is asked for and the model is none.
    """
    check_output(out, force=force, suffix=".pt2")
    if kind is not None:
        check_choice("--kind", kind, (ENCODER, CLASSIFIER))
    loaded = load(model)
    classifies = isinstance(loaded.module, AudioVisualClassifier | LinearProbe)
    kind = kind or (CLASSIFIER if classifies else ENCODER)
    if kind == CLASSIFIER and not classifies:
        raise UsageError(
            f"{loaded.folder} is of kind {loaded.config.kind} and has no class heads",
            hint="use --kind encoder",
        )
    module = _Named(loaded.module if kind == CLASSIFIER else loaded.encoder).eval().requires_grad_(False)
    inputs = _example(loaded)
    with torch.no_grad():
        outputs = module(*inputs)  # makes the tables of positions, so that the program finds them made
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(
            module, inputs, dynamic_shapes={"image": {0: batch}, "audio": {0: batch}}
        )
    described = _describe(loaded, kind, inputs, outputs)
    with atomic_file(out) as partial:
        torch.export.save(program, partial, extra_files={DESCRIPTION: json_text(described, indent=2)})
    return described


def _example(model: Model) -> tuple[Tensor, Tensor]:
    """Two samples of the sizes that the model was made for: one could be taken for a constant."""
    size = model.encoder.patch_size
    image, audio = (
        [side * size for side in grid] for grid in (model.encoder.image_grid, model.encoder.audio_grid)
    )
    return torch.zeros(2, 3, *image), torch.zeros(2, 1, *audio)


def _describe(
    model: Model, kind: str, inputs: tuple[Tensor, Tensor], outputs: dict[str, Tensor]
) -> dict[str, object]:
    def shape(value: Tensor) -> list[object]:
        return ["batch", *value.shape[1:]]

    return {
        "kind": kind,
        "inputs": {name: shape(value) for name, value in zip(("image", "audio"), inputs, strict=True)},
        "outputs": {name: shape(value) for name, value in outputs.items()},
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "config": model.config.model_dump(),
    }
