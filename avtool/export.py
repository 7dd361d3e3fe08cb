"""Models as programs that need torch alone: ``torch.export`` of an encoder or classifier."""

from pathlib import Path

import torch
from torch import Tensor, nn

from avtool.checkpoint import check_finite
from avtool.errors import UsageError, check_choice
from avtool.features import IMAGE_MEAN, IMAGE_STD
from avtool.files import atomic_file, check_output, json_text
from avtool.loading import load
from avtool.model.heads import AudioVisualClassifier, LinearProbe
from avtool.tasks.names import ClassNames

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
    is one). What is returned is in the file too, under ``avtool.json``: with the spectrogram's settings and, of a
    classifier, ``classes``, their names in the order of the logits, and ``several``, whether a clip may be of more than
    one (logits are then each for a sigmoid, else all for a softmax); both None where the model does not say. UsageError
    where a classifier is asked for and the model is none, CheckpointError where a weight is not finite.
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
    check_finite(loaded.module.state_dict(), source=loaded.folder)
    made_for = loaded.config.model
    # Two samples: one could be taken for a constant.
    inputs = torch.zeros(2, 3, *made_for.image_size), torch.zeros(2, 1, *made_for.audio_size)
    with torch.no_grad():
        outputs = module(*inputs)  # makes the tables of positions, so that the program finds them made
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(
            module, inputs, dynamic_shapes={"image": {0: batch}, "audio": {0: batch}}
        )
    named = zip(("image", "audio"), inputs, strict=True)
    described: dict[str, object] = {
        "kind": kind,
        "inputs": {name: ["batch", *value.shape[1:]] for name, value in named},
        "outputs": {name: ["batch", *value.shape[1:]] for name, value in outputs.items()},
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "config": loaded.config.model_dump(),
    }
    if kind == CLASSIFIER:
        names = ClassNames.read(loaded.folder, count=loaded.config.head.classes)
        described |= {"classes": names and names.names, "several": names and names.several}
    with atomic_file(out) as partial:
        torch.export.save(program, partial, extra_files={DESCRIPTION: json_text(described, indent=2)})
    return described
