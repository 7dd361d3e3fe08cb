"""``avtool pull``: published weights by name, fetched and converted once."""

import os
from typing import Annotated, Any

import typer

from avtool.commands import argument, command, examples, option, print_json
from avtool.errors import in_bytes
from avtool.places import is_checkpoint
from avtool.progress import say
from avtool.published import PUBLISHED, cached_file, pulled_folder

EPILOG = examples(
    "avtool pull --list",
    "avtool pull deepavfusion-vggsound",
    "avtool pull mae-vitb --base-url https://mirror.example.org/weights",
    next_command="avtool localize clip.mp4 --out heatmap.png",
)


@command("json")
def pull(
    name: Annotated[str | None, argument("NAME", "Published weights.")] = None,
    *,
    show: Annotated[bool, option(None, "List what there is, and fetch nothing.", "--list")] = False,
    offline: Annotated[
        bool, option(None, "Use the cache and files put there by hand only.", "--offline")
    ] = False,
    base_url: Annotated[
        str | None, option("URL", "Address in place of the publisher's.", usual="$AVTOOL_WEIGHTS_URL")
    ] = None,
    force: Annotated[bool, option(None, "Fetch and convert again.", "--force")] = False,
    json: bool,
) -> None:
    """Fetch published weights, check them and convert them into the cache.

    They are used by name: --model NAME, or init.image=NAME for the ViT of one modality.
    """
    if show:
        _list(json)
        return
    if name is None:
        raise typer.BadParameter(f"one of {', '.join(PUBLISHED)}, or --list", param_hint="NAME")
    from avtool.weights import pull as run

    base = base_url or os.environ.get("AVTOOL_WEIGHTS_URL") or None
    folder = run(name, base_url=base, offline=offline, force=force)
    use = f"avtool localize CLIP --model {name}"
    if starts := PUBLISHED[name].starts:
        use = f"avtool pretrain --recipe factorized {starts}={name}"
    say(f"{name} is ready: {use}")
    if json:
        print_json({"name": name, "folder": str(folder)})
    else:
        typer.echo(folder)


def _list(as_json: bool) -> None:
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "content": published.content,
            "licence": published.licence,
            "bytes": published.size,
            "sha256": published.sha256,
            "url": published.url(),
            "by_hand": str(cached_file(name)),
            "pulled": str(pulled_folder(name)) if is_checkpoint(pulled_folder(name)) else None,
        }
        for name, published in PUBLISHED.items()
    ]
    if as_json:
        print_json({"weights": rows})
        return
    for row in rows:
        size = in_bytes(row["bytes"]) if row["bytes"] else "size not published"
        typer.echo(f"{row['name']} ({size}; {row['licence']}){'  pulled' if row['pulled'] else ''}")
        typer.echo(f"    {row['content']}")
        typer.echo(f"    {row['url']}")
