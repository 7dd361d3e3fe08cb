"""``avtool export``: a model for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import argument, command, examples, option, print_json

EPILOG = examples(
    "avtool export runs/tiny-20260101-120000 --out encoder.pt2",
    "avtool export deepavfusion-vggsound --out encoder.onnx --json",
    "avtool export models/classifier --kind encoder --out encoder.pt2",
    "avtool export runs/tiny-20260101-120000 --out vit.safetensors",
    next_command="avtool export --help",
)
OUT = "File to write: .pt2 for torch, .onnx for other programs, .safetensors for timm."
KIND = "encoder, classifier, localization, separation or segmentation."
TOLERANCE = "Largest difference to torch at which an .onnx file is kept."


@command("threads", "force", "json")
def export(
    model: Annotated[Path, argument("MODEL", "Run, checkpoint or converted folder, or a name.")],
    *,
    out: Annotated[Path, option("FILE", OUT)],
    kind: Annotated[str | None, option("KIND", KIND, usual="the model's own")] = None,
    tolerance: Annotated[float | None, option("N", TOLERANCE, usual="1e-5", min=0)] = None,
    force: bool,
    json: bool,
) -> None:
    """Write a model as a program that runs without avtool, for any batch size.

    torch.export.load(FILE).module()(image, audio) runs a .pt2. An .onnx is for ONNX Runtime and OpenVINO, and compared
    with torch before it is kept. A .safetensors is the image encoder alone, without fusion, as weights of a ViT of
    timm's.
    """
    from avtool.export import export as run
    from avtool.progress import say

    described = run(model, out, kind=kind, tolerance=tolerance, force=force)
    if isinstance(found := described.get("compared"), dict):
        say(
            f"compared with torch in {len(found['batches'])} batches of {', '.join(map(str, found['batches']))}: "
            f"largest difference {found['largest_difference']:.2g}, tolerance {found['tolerance']:g}"
        )
    if json:
        print_json({"out": str(out), **described})
    else:
        typer.echo(out)
