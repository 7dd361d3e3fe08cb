"""``avtool localize``: a clip in, a heat map of where its sound comes from out."""

from itertools import starmap
from pathlib import Path
from typing import Annotated, Any

import typer

from avtool.commands import Clips, command, every, examples, option

EPILOG = examples(
    "avtool localize clip.mp4 --out heatmap.png",
    "avtool localize clip.mp4 --controls --out heatmap.mp4",
    "avtool localize photo.jpg --audio sound.wav --map difference --raw map.npy",
    next_command="avtool evaluate RUN --data DIR --task localize",
)


@command("audio", "model", "at", "device", "threads", "force")
def localize(
    clips: Clips,
    *,
    out: Annotated[
        Path,
        option(
            "FILE", "A .png: one frame; an .mp4: the whole clip, up to 15 frames a second; an .npz: its maps."
        ),
    ] = Path("heatmap.png"),
    map: Annotated[
        str | None,
        option(
            "KIND",
            "attention, difference, cosine; trained or decoder if fine-tuned.",
            usual="the model's own",
        ),
    ] = None,
    every: Annotated[float | None, every("Seconds between maps of a whole clip.", "0.5")] = None,
    controls: Annotated[
        bool, option(None, "Is it the sound? Also show the map with silence and with noise.", "--controls")
    ] = False,
    other: Annotated[
        Path | None, option("CLIP", "--controls, with this clip's sound instead of noise.", "--other-sound")
    ] = None,
    raw: Annotated[Path | None, option("NPY", "Also write the map as float32 (height, width).")] = None,
    **options: Any,
) -> None:
    """Show where in the frame a clip's sound comes from.

    Of several clips, or the videos in a folder, --out is a folder: NAME.mp4 of each, with --at NAME.png.
    """
    from avtool.errors import check_choice
    from avtool.predict import on_clips
    from avtool.tasks.localize.controls import LocalizationResult, in_words
    from avtool.tasks.localize.maps import EVERY
    from avtool.tasks.localize.predict import localize as run

    if map is not None:
        check_choice("--map", map, EVERY)

    def show(path: Path, found: LocalizationResult) -> None:
        for line in (path, raw, *starmap(in_words, found.controls.items())):
            if line is not None:
                typer.echo(line)

    one = {"--raw": raw, "--audio": options["audio"]}
    ending = ".mp4" if options["at"] is None else ".png"
    options |= {"map": map, "every": every, "controls": controls, "other": other, "raw": raw}
    on_clips(clips, run, out=out, ending=ending, one=one, show=show, **options)
