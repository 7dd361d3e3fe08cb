"""``avtool convert``: a published checkpoint in, a folder that every command takes out."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import Debug, Force, Json, examples, guarded, print_json

EPILOG = examples(
    "avtool convert checkpoint_latest.pth --out models/vggsound",
    "avtool convert small.pth --out models/small --heads 3 --tokens 4,2,3",
    "avtool convert mae_pretrain_vit_base.pth --out models/mae --json",
    next_command="avtool localize clip.mp4 --model models/vggsound --out heatmap.png",
)


def _numbers(option: str, text: str | None, count: int) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if len(parts) != count or not all(part.strip().isdigit() for part in parts):
        raise typer.BadParameter(f"{text!r} is not {count} whole numbers with commas", param_hint=option)
    return tuple(int(part) for part in parts)


@guarded
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .pth or .safetensors file.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder to write.", metavar="DIR")],
    heads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Attention heads.", show_default="width / 64")
    ] = None,
    decoder_heads: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Decoders' heads.", show_default="width / 32")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="F,V,A", help="Fusion and aggregating.", show_default="16,8,8")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(metavar="H,W", help="Frame in pixels.", show_default="a square")
    ] = None,
    audio_size: Annotated[
        str | None, typer.Option(metavar="M,F", help="Mel bands, frames.", show_default="128 bands")
    ] = None,
    patch_size: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Expected side (checked).", show_default="the file's"),
    ] = None,
    mask_ratios: Annotated[
        str, typer.Option(metavar="IMAGE,AUDIO", help="Shares removed in pretraining.")
    ] = "0.75,0.8",
    spectrogram: Annotated[
        str, typer.Option(metavar="RATE,WINDOW,HOP", help="Samples a second, in a window, a hop.")
    ] = "16000,800,250",
    force: Force = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Convert a published checkpoint into a folder that every command takes.

    What the tensors do not tell is assumed, printed, kept in config.json, and set by these options.
    """
    given = {
        "tokens": _numbers("--tokens", tokens, 3),
        "image_size": _numbers("--image-size", image_size, 2),
        "audio_size": _numbers("--audio-size", audio_size, 2),
    }
    rate, window, hop = _numbers("--spectrogram", spectrogram, 3) or (0, 0, 0)
    image_ratio, audio_ratio = _ratios(mask_ratios)
    from avtool.convert import Assumptions, assumed_keys
    from avtool.convert import convert as run
    from avtool.progress import say

    assume = Assumptions(
        heads=heads,
        decoder_heads=decoder_heads,
        patch_size=patch_size,
        image_mask_ratio=image_ratio,
        audio_mask_ratio=audio_ratio,
        sample_rate=rate,
        n_fft=window,
        hop=hop,
        **given,  # type: ignore[arg-type] # tuples of the lengths asked for
    )
    config = run(file, out, assume=assume, force=force)
    untold = assumed_keys(config)
    say(f"{config.kind} of {file}; what no tensor tells is marked *")
    for key, value in config.model.items():
        say(f"{'*' if key in untold else ' '} {key} = {value}")
    for key, value in config.spectrogram.items():
        say(f"* spectrogram.{key} = {value}")
    if as_json:
        print_json({"out": str(out), **asdict(config)})
    else:
        typer.echo(out)


def _ratios(text: str) -> tuple[float, float]:
    try:
        image, audio = (float(part) for part in text.split(","))
    except ValueError:
        image = audio = 0.0
    if not (0 < image < 1 and 0 < audio < 1):
        raise typer.BadParameter(f"{text!r} is not two numbers between 0 and 1", param_hint="--mask-ratios")
    return image, audio
