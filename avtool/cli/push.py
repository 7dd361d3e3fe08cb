"""``avtool push``: a model with its card to the Hugging Face hub, or into a folder to look at first."""

from pathlib import Path
from typing import Annotated

import typer

from avtool.commands import argument, command, examples, option, print_json
from avtool.errors import UsageError

EPILOG = examples(
    "avtool push runs/classify me/my-classifier --licence cc-by-4.0 --to card",
    "avtool push runs/classify me/my-classifier --licence cc-by-4.0 --private",
    "avtool push card me/my-classifier@v2",
    next_command="avtool classify clip.mp4 --model me/my-classifier",
)


@command("force", "json")
def push(
    model: Annotated[Path, argument("RUN", "Run, checkpoint or converted folder.")],
    name: Annotated[str, argument("OWNER/NAME", "Name on the hub; @BRANCH may follow.")],
    *,
    to: Annotated[Path | None, option("DIR", "Write the files into this folder, and push nothing.")] = None,
    licence: Annotated[
        str | None, option("ID", "The hub's name of a licence, as apache-2.0.", "--licence", "--license")
    ] = None,
    private: Annotated[bool, option(None, "Make a new repository private.", "--private")] = False,
    force: bool,
    json: bool,
) -> None:
    """Push a model to the Hugging Face hub, with a card on its training and its evaluations.

    The card has the tables that avtool evaluate kept in the run. A README.md beside the weights is taken in its place.
    HF_ENDPOINT, HF_TOKEN and hf auth login are heeded.
    """
    from avtool import push as pushing

    if (force and to is None) or (private and to is not None):
        option, how = ("--force", "without") if to is None else ("--private", "with")
        raise UsageError(f"{option} changes nothing {how} --to", hint="leave it out")
    if to is not None:
        done = str(pushing.save(model, name, to, licence=licence, force=force))
    else:
        done = pushing.push(model, name, licence=licence, private=private)
    if json:
        print_json({"name": name, "to" if to else "commit": done})
    else:
        typer.echo(done)
