"""A model on the Hugging Face hub, or in a folder as it will be there: its files, and a card of what its run kept."""

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from avtool import __version__, hub
from avtool.checkpoint import check_finite, empty_model_and_weights
from avtool.config.checkpoint import read_model_config
from avtool.data.card import CARD, markdown
from avtool.errors import CheckpointError, UsageError
from avtool.files import atomic_folder, check_output, sha256_of
from avtool.places import resolve_checkpoint, run_of
from avtool.progress import say
from avtool.registry import DATASETS, TASKS, kinds, load_module
from avtool.tasks.table import measure_in_words
from avtool.tracking import kept_tables, read_run_facts


def push(
    model: Path, name: str, *, licence: str | None = None, private: bool = False, token: str | None = None
) -> str:
    """Put ``model`` (see ``model_files``) on the hub as ``owner/name``, or on a branch as ``owner/name@branch``, in one
    commit, and return its address. The repository is made where there is none.

    ``private``: a new repository is its owner's alone. ``token``: in place of $HF_TOKEN or one kept by ``hf auth
    login``. AvtoolError where there is none, where the hub refuses, and where ``private`` and the repository is public:
    nothing is committed then.
    """
    from huggingface_hub import CommitOperationAdd, HfApi, get_token

    repo, branch = hub.parse_name(name)
    site = hub.endpoint()
    files = model_files(model, repo, licence=licence)
    if not (token or get_token()):
        raise CheckpointError(
            f"there is no token to write to {site}/{repo} with",
            hint=f"make one at {site}/settings/tokens, then: {hub.LOG_IN}",
        )
    api = HfApi(endpoint=site, library_name="avtool", token=token)
    added = [CommitOperationAdd(path, content) for path, content in files.items()]
    with hub.in_words(repo, branch, writes=True):
        api.create_repo(repo, private=private or None, exist_ok=True)  # None: as is usual there
        if private and not api.model_info(repo).private:
            raise UsageError(
                f"{site}/{repo} is there already, and public",
                hint="make it private on its page first, or leave out --private",
            )
        if branch is not None:
            api.create_branch(repo, branch=branch, exist_ok=True)
        done = api.create_commit(repo, added, commit_message=f"avtool {__version__}", revision=branch)
    return str(done.commit_url)


def save(model: Path, name: str, to: Path, *, licence: str | None = None, force: bool = False) -> Path:
    """Write what ``push`` would put on the hub as ``name`` into the new folder ``to``, which is returned. UsageError
    where it exists, unless ``force`` and avtool wrote it."""
    check_output(to, force=force, markers=(hub.CONFIG,), option="--to")
    files = model_files(model, hub.parse_name(name)[0], licence=licence)
    with atomic_folder(to) as partial:
        for path, content in files.items():
            if isinstance(content, Path):
                shutil.copyfile(content, partial / path)
            else:
                (partial / path).write_bytes(content)
    return to


def model_files(model: Path, name: str, *, licence: str | None = None) -> dict[str, Path | bytes]:
    """The files of ``model``, a run (its best weights), a checkpoint or a converted folder, by their names on the hub:
    where they are, or what is in them. The card is a README.md that lies beside the weights, else ``model_card``. What
    a resume needs stays here, and so do paths of this machine.

    CheckpointError where the weights do not fit config.json or are not finite; UsageError for a ``licence`` beside a
    card of its own.
    """
    folder = resolve_checkpoint(model)
    check_finite(empty_model_and_weights(folder, read_model_config(folder))[1], source=folder)
    there = [path for path in (CARD, hub.CONFIG, hub.WEIGHTS, hub.CLASSES) if (folder / path).exists()]
    files: dict[str, Path | bytes] = {path: folder / path for path in there}
    if CARD in files and licence is not None:
        raise UsageError(
            f"--licence {licence} changes nothing: {folder / CARD} is the card",
            hint="write the licence there",
        )
    if CARD not in files:
        files[CARD] = model_card(folder, name, licence=licence, run=run_of(folder)).encode()
        if licence is None:
            say("no --licence is given: the card says so, and others may not use the model")
    return files


def model_card(folder: Path, name: str, *, licence: str | None = None, run: Path | None = None) -> str:
    """README.md of the model in the checkpoint ``folder``, in Markdown with the hub's metadata before it: how to use it
    as ``name``, what its ``run`` says of training and data, the tables that the run kept of these very weights with
    their floors and controls, what it is not for. ``licence``: None says that none was given."""

    config = read_model_config(folder)
    task = kinds()[config.kind]
    facts = read_run_facts(run) if run else {}
    tables = kept_tables(run, sha256_of(folder / hub.WEIGHTS)) if run else []
    data, base = facts.get("data", {}), _base(facts)
    if not {"name", "trained_on", "held_out", "checksum"} <= data.keys():
        data = None  # of an early version
    front = {
        "library_name": "avtool",
        "license": licence,
        "tags": ["audio-visual", task.name],
        "datasets": _datasets(data["name"]) if data else None,
        "metrics": list(dict.fromkeys(measure for table in tables for measure in table["measures"])),
        "base_model": base,
    }
    template = markdown(Path(__file__).with_name("card.md.j2"), measure=measure_in_words)
    return template.render(
        front=yaml.safe_dump({key: value for key, value in front.items() if value}, sort_keys=False),
        name=name,
        command=_command(task.command or TASKS["embed"].command, name),
        limits=task.limits,
        config=config,
        parameters=sum(p.numel() for p in empty_model_and_weights(folder, config)[0].parameters()),
        facts=facts,
        data=data,
        base=base,
        recipe=_recipe(run) if run else "",
        tables=tables,
        licence=licence,
    )


def _base(facts: Mapping[str, Any]) -> str | None:
    """The model on the hub that a run started from, where it did."""
    named, folder = facts.get("init", {}).get("model"), (facts.get("started_from") or {}).get("folder", "")
    repo = re.sub("@.*", "", named or "")
    return repo if repo and f"models--{repo.replace('/', '--')}" in folder else None


def _datasets(name: str) -> list[str]:
    """What the hub calls the data set ``name``, where others have it too."""
    for known, dataset in DATASETS.items():
        if dataset.copies and name in (known, *(f"{known}-{subset}" for subset in dataset.subsets)):
            return [dataset.mirror.repo if dataset.mirror else known]
    return []


def _command(place: str, name: str) -> str:
    """The first example in a command's help, with the model ``name``."""
    found = re.search(r"avtool \S+ .*", load_module(place).EPILOG)
    line = re.sub(r" --model \S+", "", found[0]) if found else "avtool COMMAND clip.mp4"
    return re.sub(r"\S+\.mp4", f"clip.mp4 --model {shlex.quote(name)}", line, count=1)


def _recipe(run: Path) -> str:
    """The run's recipe without what it started from, which may be a path; nothing where there is none."""
    path = run / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    told = {key: value for key, value in recipe.items() if key != "init" and value is not None}
    return yaml.safe_dump(told, sort_keys=False, default_flow_style=None) if told else ""
