"""Models for other programs: to run without this package, by ``torch.export`` (.pt2) or as ONNX (.onnx), or the image
encoder as weights of a ViT of timm's (.safetensors)."""

import io
import logging
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from avtool import __version__
from avtool.checkpoint import check_finite, size_of, write_safetensors
from avtool.errors import AvtoolError, UsageError, check_choice, in_bytes
from avtool.features import IMAGE_MEAN, IMAGE_STD, LOG_FLOOR
from avtool.files import atomic_file, check_output, json_text
from avtool.libraries import need_extra
from avtool.loading import Model, load
from avtool.model.heads import AudioVisualClassifier
from avtool.model.localization import LocalizationModel
from avtool.model.unet import SegmentationModel, SeparationModel
from avtool.registry import kinds
from avtool.tasks.names import ClassNames
from avtool.timm_vit import arguments_for_timm, weights_for_timm

PT2, ONNX, VIT = ".pt2", ".onnx", ".safetensors"
ENCODER, CLASSIFIER = "encoder", "classifier"
WHOLE: dict[str, tuple[type[nn.Module], str]] = {
    CLASSIFIER: (AudioVisualClassifier, "logits"),  # a linear probe is one, too
    "localization": (LocalizationModel, "map"),
    "separation": (SeparationModel, "logits"),
    "segmentation": (SegmentationModel, "logits"),
}
"""What is written of a model that is more than an encoder: kind -> its class, and what it gives."""
DESCRIPTION = "avtool.json"
OPSET = 18
"""The oldest that torch writes without a conversion."""
ONNX_LIMIT = 2_000_000_000
"""Bytes of weights that still fit into one file of ONNX, which ends at 2**31."""
TOLERANCE, BATCHES = 1e-5, (1, 2, 5)


class _Named(nn.Module):
    """Outputs as a plain dict, which a process without this package can take; a lone one is called ``gives``."""

    def __init__(self, module: nn.Module, gives: str) -> None:
        super().__init__()
        self.module, self.gives = module, gives

    def forward(self, image: Tensor, audio: Tensor) -> dict[str, Tensor]:
        outputs = self.module(image, audio)
        return {self.gives: outputs} if isinstance(outputs, Tensor) else outputs._asdict()


def export(
    model: Path, out: Path, *, kind: str | None = None, tolerance: float | None = None, force: bool = False
) -> dict[str, object]:
    """Write ``model`` (a run, checkpoint or converted folder, or a name) as the program ``out``, a torch.export .pt2 or
    an .onnx, or its image encoder as timm's weights, .safetensors, and return what it takes and gives.

    The program takes ``image`` float32 (B, 3, H, W), ImageNet-normalised, and ``audio`` float32 (B, 1, mel, frames),
    log10 mel power, of the sizes the model was made for and any B from 1. ``kind`` (None: the model's own, of a
    pretrained one ``encoder``) says what it gives, all float32: ``encoder`` the tokens image, audio and fusion (B, T,
    D); ``classifier`` the logits image, audio, fusion and mean (B, C); ``localization`` the map (B, rows, columns);
    ``separation`` logits (B, 1, mel, frames); ``segmentation`` logits (B, classes, H, W). Where these outputs have the
    names of inputs, .onnx calls them image_tokens, image_logits and so on.

    What is returned is in the file too, under ``avtool.json`` (of .onnx: in its metadata): with the settings of the
    log-mel and, of a classifier or segmenter, ``classes``, their names in the order of the logits, and ``several``,
    whether a clip may be of more than one (logits are then each for a sigmoid, else all for a softmax); both None where
    the model does not say.

    A .safetensors has no program, and no fusion: see ``avtool.timm_vit.weights_for_timm``. ``timm`` in what is returned
    are the arguments of ``timm.create_model`` for the model that loads it.

    An .onnx is kept only where ONNX Runtime gives what torch does for batches of 1, 2 and 5, each number within
    ``tolerance`` (None: 1e-5); what was found is returned as ``compared``.

    UsageError where the model is not of that kind, a package is missing, or the weights are too many for one .onnx;
    CheckpointError where a weight is not finite; AvtoolError where ONNX Runtime gives something else.
    """
    suffix = _check_out(out, kind=kind, tolerance=tolerance, force=force)
    loaded = load(model)
    if suffix == VIT:
        return _write_vit(loaded, out)
    own = next((name for name, (whole, _) in WHOLE.items() if isinstance(loaded.module, whole)), ENCODER)
    if kind not in (None, ENCODER, own):
        raise UsageError(
            f"{loaded.folder} is of kind {loaded.config.kind}, not {kind}",
            hint=f"use --kind {' or --kind '.join(dict.fromkeys((own, ENCODER)))}",
        )
    kind = kind or own
    check_finite(loaded.module.state_dict(), source=loaded.folder)
    gives = "tokens" if kind == ENCODER else WHOLE[kind][1]
    module = _Named(loaded.encoder if kind == ENCODER else loaded.module, gives)
    module = module.float().eval().requires_grad_(False)
    size, most, to_onnx = size_of(module.state_dict()), ONNX_LIMIT, suffix == ONNX
    if to_onnx and size > most:
        raise UsageError(
            f"the weights of {loaded.folder} are {in_bytes(size)}, and an {ONNX} file holds {in_bytes(most)}",
            hint=f"--out {out.with_suffix(PT2)}",
        )
    made_for = loaded.config.model
    # Two samples: one could be taken for a constant.
    inputs = torch.zeros(2, 3, *made_for.image_size), torch.zeros(2, 1, *made_for.audio_size)
    with torch.no_grad():
        outputs = module(*inputs)  # makes the tables of positions, so that the program finds them made
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(
            module, inputs, dynamic_shapes={"image": {0: batch}, "audio": {0: batch}}
        )
    if to_onnx and len(outputs) > 1:  # there, outputs and inputs have one space of names
        outputs = {f"{name}_{gives}": value for name, value in outputs.items()}
    described = _description(loaded, kind, {"image": inputs[0], "audio": inputs[1]}, outputs)
    said = json_text(described, indent=2)
    with atomic_file(out) as partial:
        if not to_onnx:
            torch.export.save(program, partial, extra_files={DESCRIPTION: said})
            return described
        _write_onnx(program, partial, list(outputs), said)
        compared = _compared(partial, module, inputs, TOLERANCE if tolerance is None else tolerance)
        if not compared["largest_difference"] <= compared["tolerance"]:
            raise AvtoolError(
                f"{out} is not written: ONNX Runtime and torch differ by {compared['largest_difference']:.2g} in "
                f"outputs of up to {compared['largest_output']:.3g}, more than {compared['tolerance']:g}",
                hint=f"large outputs differ more by rounding alone: raise --tolerance, or --out {out.with_suffix(PT2)}",
            )
    return {**described, "compared": compared}


def _check_out(out: Path, *, kind: str | None, tolerance: float | None, force: bool) -> str:
    """What the name of ``out`` ends in. UsageError where it cannot be written, an option does not go with it, or a
    package for it is missing."""
    suffix = out.suffix.lower()
    if suffix not in (PT2, ONNX, VIT):
        raise UsageError(
            f"--out {out} is named neither {PT2}, {ONNX} nor {VIT}",
            hint=f"--out {out.with_suffix(PT2)} for torch, --out {out.with_suffix(ONNX)} for other programs, "
            f"--out {out.with_suffix(VIT)} for timm",
        )
    check_output(out, force=force)
    if kind is not None:
        check_choice("--kind", kind, (ENCODER, *WHOLE))
        if suffix == VIT:
            raise UsageError(
                f"--kind says nothing where --out {out} has the image encoder alone",
                hint=f"leave it out, or --out {out.with_suffix(PT2)}",
            )
    if suffix == ONNX:
        for package in ("onnx", "onnxscript", "onnxruntime"):
            otherwise = f"--out {out.with_suffix(PT2)}"
            need_extra(package, extra="onnx", purpose=f"--out {out}", otherwise=otherwise, load=True)
    elif tolerance is not None:
        raise UsageError(
            f"--tolerance is for {ONNX}: {out} is not compared", hint=f"leave it out, or --out X{ONNX}"
        )
    return suffix


def _write_vit(loaded: Model, out: Path) -> dict[str, object]:
    """The image encoder of ``loaded`` as timm's weights, and what is said of them."""
    size = loaded.config.model.image_size
    weights = weights_for_timm(loaded.encoder.image, size)
    check_finite(weights, source=loaded.folder)
    inputs, outputs = {"image": torch.empty(1, 3, *size)}, {"tokens": weights["pos_embed"]}
    described = _description(loaded, "image", inputs, outputs)
    described["timm"] = arguments_for_timm(loaded.encoder.image, size)
    with atomic_file(out) as partial:
        write_safetensors(partial, weights, {DESCRIPTION: json_text(described, indent=2)})
    return described


def _description(
    loaded: Model, kind: str, inputs: dict[str, Tensor], outputs: dict[str, Tensor]
) -> dict[str, object]:
    """What a caller has to know of the program."""
    described: dict[str, object] = {
        "avtool": __version__,
        "task": kinds()[loaded.config.kind].name,
        "kind": kind,
        "inputs": {name: ["batch", *value.shape[1:]] for name, value in inputs.items()},
        "outputs": {name: ["batch", *value.shape[1:]] for name, value in outputs.items()},
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
        "config": loaded.config.model_dump(),
    }
    if "audio" in inputs:
        heard = {**loaded.config.log_mel, "samples": loaded.config.window, "floor": LOG_FLOOR}
        described["log_mel"] = heard
    if kind in (CLASSIFIER, "segmentation"):
        names = ClassNames.read(loaded.folder, count=loaded.config.head.classes)
        described |= {"classes": names and names.names, "several": names and names.several}
    return described


def _write_onnx(
    program: torch.export.ExportedProgram, path: Path, outputs: list[str], description: str
) -> None:
    """``program`` as the ONNX file ``path``, without the traces of this machine's files that torch adds to nodes."""
    logged = logging.root.manager.disable
    logging.disable(logging.WARNING)  # both libraries tell at length what they did
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            made: Any = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=OPSET,
                input_names=["image", "audio"],
                output_names=outputs,
                dynamic_shapes={"image": {0: "batch"}, "audio": {0: "batch"}},
            )
    finally:
        logging.disable(logged)
    content = made.model_proto
    for part in (content.graph, *content.graph.node, *content.graph.value_info, *content.graph.output):
        part.ClearField("metadata_props")
    content.metadata_props.add(key=DESCRIPTION, value=description)
    path.write_bytes(content.SerializeToString())


def _compared(path: Path, module: nn.Module, like: tuple[Tensor, Tensor], tolerance: float) -> dict[str, Any]:
    """How far ONNX Runtime's outputs of the file ``path`` are from those of ``module``, for random inputs of the shapes
    of ``like``: the largest difference and the largest output of all ``BATCHES``."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    differences, sizes = list[Tensor](), list[Tensor]()
    for batch in BATCHES:
        image, audio = (torch.randn(batch, *part.shape[1:], generator=generator) for part in like)
        audio = 2 * audio - 3  # where log10 mel powers lie
        with torch.no_grad():
            wanted = module(image, audio).values()
        got = session.run(None, {"image": image.numpy(), "audio": audio.numpy()})
        for have, want in zip(got, wanted, strict=True):
            differences.append((torch.from_numpy(have) - want).abs().max())
            sizes.append(want.abs().max())
    return {
        "largest_difference": torch.stack(differences).max().item(),
        "largest_output": torch.stack(sizes).max().item(),
        "batches": BATCHES,
        "tolerance": tolerance,
    }
