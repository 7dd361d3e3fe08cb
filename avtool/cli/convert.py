"""``avtool convert``: a published checkpoint in, a folder that every command takes out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from avtool.commands import ClipCommand, argument, command, examples, option, print_json

EPILOG = examples(
    "avtool convert checkpoint_latest.pth --out models/vggsound",
    "avtool convert small.pth --out models/small heads=3 fusion_tokens=[4,2,3]",
    "avtool convert mae_pretrain_vit_base.pth --out models/mae --json",
    "avtool convert cav-mae.pth --out models/cav-mae-audio stream=audio",
    next_command="avtool localize clip.mp4 --model models/vggsound --out heatmap.png",
)
KEY = "What to read of a file that holds several, as state_dict_ema."
BEFORE = {
    "--heads": "heads=N",
    "--decoder-heads": "decoder_heads=N",
    "--tokens": "fusion_tokens=[FUSION,IMAGE,AUDIO]",
    "--image-size": "image_size=[H,W]",
    "--audio-size": "audio_size=[MELS,FRAMES]",
    "--patch-size": "patch_size=N",
    "--mask-ratios": "mask_ratio_image=SHARE mask_ratio_audio=SHARE",
    "--spectrogram": "sample_rate=RATE n_fft=WINDOW hop=HOP",
}
"""Options that settings have taken the place of."""


class ConvertCommand(ClipCommand):
    """A command that says what its options of earlier versions are called now."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for word in args:
            if (option := word.partition("=")[0]) in BEFORE:
                raise typer.BadParameter(f"{option} is a setting now: {BEFORE[option]}", ctx=ctx)
        return super().parse_args(ctx, args)


COMMAND = ConvertCommand


@command("force", "json")
def convert(
    file: Annotated[Path, argument("FILE", "A .pth or .safetensors file.")],
    settings: Annotated[list[str] | None, argument("KEY=VALUE", "What the file does not tell.")] = None,
    *,
    out: Annotated[Path, option("DIR", "Folder to write.")],
    key: Annotated[str | None, option("NAME", KEY, usual="averaged weights, if there are some")] = None,
    drop_positions: Annotated[
        bool, option(None, "Go on without a ViT's learned positions.", "--drop-positions")
    ] = False,
    force: bool,
    json: bool,
) -> None:
    """Convert a published checkpoint into a folder that every command takes.

    What the tensors do not tell is assumed, printed, kept in config.json, and set by KEY=VALUE: heads (width / 64),
    decoder_heads (width / 32), fusion_tokens=[16,8,8], image_size=[224,224], audio_size=[128,192],
    mask_ratio_image=0.75, mask_ratio_audio=0.8, sample_rate=16000, n_fft=800 and hop=250. A CAV-MAE has two encoders:
    stream=image or stream=audio. What is left out of a file is said.
    """
    from avtool.config.values import parse_settings
    from avtool.convert import ASSUMED
    from avtool.convert import convert as run
    from avtool.progress import say

    assume = parse_settings(settings or ())
    config = run(file, out, assume=assume, key=key, drop_positions=drop_positions, force=force)
    said = config.settings if config.spectrogram is None else config.settings | dict(config.spectrogram)
    say(f"{config.kind} of {file}; what no tensor tells is marked *")
    for name, value in said.items():
        say(f"{'*' if name in ASSUMED else ' '} {name} = {value}")
    if json:
        print_json({"out": str(out), **config.model_dump()})
    else:
        typer.echo(out)
