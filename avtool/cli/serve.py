"""``avtool serve``: a page that runs a model on the clips that are dropped on it."""

from pathlib import Path
from typing import Annotated

from avtool.commands import command, examples, option

EPILOG = examples(
    "avtool serve",
    "avtool serve --model runs/tiny-localize --port 0",
    "avtool serve --max-seconds 20 --max-mb 50",
    next_command="avtool localize clip.mp4 --controls --out heatmap.mp4",
)
HOST = "Address to listen on; any but this machine's own lets others in."


@command("model", "device", "threads")
def serve(
    *,
    model: Path | None,
    host: Annotated[str, option("HOST", HOST)] = "127.0.0.1",
    port: Annotated[int, option("N", "Port; 0: a free one.", min=0, max=65535)] = 7860,
    megabytes: Annotated[float, option("N", "Megabytes of an upload at most.", "--max-mb", min=0.1)] = 100.0,
    seconds: Annotated[float, option("N", "Seconds of a clip at most.", "--max-seconds", min=0.1)] = 60.0,
    device: str,
) -> None:
    """Show a page that runs a model on the clips that are dropped on it.

    It needs the extra serve: pip install 'avtool[serve]'. Only this machine reaches the page unless --host says
    otherwise. What a visitor brings is removed when the result is shown, and all of it when the command ends.
    """
    from avtool.serve import Bounds
    from avtool.serve import serve as run

    run(model=model, host=host, port=port, bounds=Bounds(megabytes, seconds), device=device)
