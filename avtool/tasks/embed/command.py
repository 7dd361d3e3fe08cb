"""``avtool embed``: clips in, the encoder's tokens out."""

from pathlib import Path
from typing import Annotated, Any

import typer

from avtool.commands import Clips, Failures, command, every, examples, option

EPILOG = examples(
    "avtool embed *.mp4 --out tokens.npz --model deepavfusion-vggsound",
    "avtool embed long.mp4 --every 1.5 --out tokens.npz",
    "avtool embed photo.jpg --audio sound.wav --out tokens.npz",
    next_command="avtool evaluate RUN --data DIR --task retrieve",
)


@command("audio", "model", "device", "threads", "force")
def embed(
    clips: Clips,
    *,
    out: Annotated[Path, option("NPZ", "File to write.")] = Path("tokens.npz"),
    every: Annotated[float | None, every("Seconds between windows.", "one in the middle")] = None,
    **options: Any,
) -> None:
    """Write the tokens of clips to an .npz, as float32.

    Of N windows it holds: image_tokens (N, Ni, D), audio_tokens (N, Na, D) and fusion_tokens (N, T, D); their means
    image, audio and fusion (N, D); times (N, 2), start and end in seconds; clip (N), which of the files it is of;
    files, their names; and lacks, what of picture and sound a file has not, which was blank.
    """
    from avtool.predict import clips_in
    from avtool.tasks.embed.predict import embed as run

    failures = Failures(given := clips_in(clips))
    run(given, out=out, every=every, failed=failures.tell, **options)
    typer.echo(out)
    failures.leave()
