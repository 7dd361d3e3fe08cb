"""What a run leaves behind beside its checkpoints: metrics.jsonl, recipe.yaml and run.json; and its curves."""

import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from avtool import __version__
from avtool.errors import AvtoolError, CheckpointError, UsageError
from avtool.files import atomic_file, check_output, finite, json_text, naming, write_json
from avtool.loggers import Logger
from avtool.progress import say, warn

METRICS = "metrics.jsonl"
RUN_JSON = "run.json"
EVALUATIONS = "evaluations.jsonl"
"""The tables of a run's evaluations, one JSON object for each."""


class MetricsLog:
    """metrics.jsonl: one JSON object a line, each with its ``step``. What lies after ``resume_step`` is dropped when a
    run goes on from there, so that no step stands twice. A number that is not finite is null, and its name is said
    once. Its numbers go to the ``loggers`` as well, in the groups train/ and validation/."""

    def __init__(self, run: Path, *, resume_step: int, loggers: Mapping[str, Logger] | None = None) -> None:
        self.path = run / METRICS
        kept = [row for row in read_metrics(run) if row["step"] <= resume_step] if self.path.exists() else []
        with atomic_file(self.path) as partial:
            partial.write_text("".join(json_text(row) + "\n" for row in kept), encoding="utf-8")
        self._without: set[str] = set()
        self._loggers = loggers or {}

    def write(self, **values: Any) -> None:
        """Add a row, ``step`` in it. It is with the system when this returns: a killed process loses none. Where the
        disk does not take it, no part of it stays."""
        before = self.path.stat().st_size
        try:
            with naming(self.path), self.path.open("a", encoding="utf-8") as file:
                file.write(json_text(values) + "\n")
        except OSError:
            os.truncate(self.path, before)
            raise
        new = [name for name, value in values.items() if finite(value) is None and name not in self._without]
        if new:  # each is named once
            self._without.update(new)
            say(f"no finite value for {', '.join(new)} at step {values['step']}: null in {METRICS}")
        numbers = {}
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                measure = name.removeprefix("held_out_")
                numbers[f"{'train' if measure == name else 'validation'}/{measure}"] = value
        for logger in self._loggers.values():
            logger.log(numbers, values["step"])

    def close(self, *, failed: bool) -> None:
        """Nothing more is written. Where the run ``failed``, that is the error to tell: others become warnings."""
        for name, logger in self._loggers.items():
            try:
                logger.close(failed=failed)
            except Exception as error:
                if not failed:
                    raise
                warn(f"{name}: {error}")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl, each with its ``step``; they end at a line that was cut off. NaN and Infinity,
    which earlier versions wrote, are None as null is."""
    rows: list[dict[str, Any]] = []
    for line in (run / METRICS).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line, parse_constant=lambda name: None)
        except ValueError:
            break
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            break
        rows.append(row)
    return rows


def plot(runs: Sequence[Path], *, out: Path, force: bool = False) -> Path:
    """Draw the curves of ``runs`` over each other (see ``avtool.report.curves``) into the PNG ``out``.

    AvtoolError for a folder that is no run or has no row yet, UsageError where ``out`` cannot be written.
    """
    from avtool.report.curves import draw_curves
    from avtool.report.heatmap import write_png

    check_output(out, force=force, suffix=".png")
    rows = {name: rows_of_run(run) for name, run in zip(run_names(runs), runs, strict=True)}
    write_png(out, draw_curves(rows))
    return out


def rows_of_run(run: Path) -> list[dict[str, Any]]:
    """What ``read_metrics`` gives. AvtoolError where ``run`` is no run, or has no row of training yet."""
    if not run.exists():
        raise AvtoolError(f"no run at {run}", hint="avtool pretrain --recipe tiny makes one")
    if not (run / METRICS).is_file():
        raise AvtoolError(f"{run} is not a run: there is no {METRICS} in it", hint="name the folder of a run")
    rows = read_metrics(run)
    if not any("seconds" in row or "loss" in row for row in rows):
        hint = "wait for the first train.log_every steps"
        raise AvtoolError(f"{run / METRICS} holds no step of training yet", hint=hint)
    return rows


def run_names(runs: Sequence[Path]) -> list[str]:
    """The folders' names, or, where two of them are alike, their whole paths. UsageError for a run given twice."""
    whole = [run.resolve() for run in runs]
    if twice := [run for number, run in enumerate(runs) if whole[number] in whole[:number]]:
        raise UsageError(f"{twice[0]} is given twice", hint="name each run once")
    names = [run.name for run in whole]
    return [name if names.count(name) == 1 else str(run) for name, run in zip(names, whole, strict=True)]


def read_run_facts(run: Path) -> dict[str, Any]:
    """A run's run.json; nothing where there is none. CheckpointError where it is damaged."""
    path = run / RUN_JSON
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        raise CheckpointError(
            f"{path} is damaged: it is no JSON object",
            hint=f"begin it anew, it is only the run's history: echo '{{}}' > {shlex.quote(str(path))}",
        )
    return facts


def write_run_facts(run: Path, *, recipe_yaml: str, command: list[str], **facts: Any) -> None:
    """recipe.yaml (resolved) and run.json (command, versions, machine and ``facts``; under ``before`` what it held when
    the run was resumed)."""
    run.mkdir(parents=True, exist_ok=True)
    earlier = read_run_facts(run)
    before = [*earlier.pop("before", []), *([earlier] if earlier else [])]
    packages = ("torch", "torchvision", "torchaudio", "timm", "numpy", "av", "opencv-python-headless")
    content = {
        "command": command,
        "avtool": __version__,
        "python": platform.python_version(),
        "machine": {"system": platform.platform(), "cores": os.cpu_count()},
        "versions": {name: version(name) for name in packages},
        **facts,
        **({"before": before} if before else {}),
    }
    with atomic_file(run / "recipe.yaml") as partial:
        partial.write_text(recipe_yaml, encoding="utf-8")
    write_json(run / RUN_JSON, content)


def keep_evaluation(run: Path, content: Mapping[str, Any]) -> None:
    """Add what metrics.json holds to a run's evaluations; where they cannot be written, say so."""
    try:
        with (run / EVALUATIONS).open("a", encoding="utf-8") as file:
            file.write(json_text(content) + "\n")
    except OSError as error:
        warn(f"these tables are not kept in {run}: {error.strerror}")


def kept_tables(run: Path, weights: str) -> list[dict[str, Any]]:
    """The tables of a run's evaluations of the ``weights`` with this sha256, of each protocol on the same clips the
    newest, with the names of all its ``measures``; lines that are damaged are passed over."""
    path, tables = run / EVALUATIONS, dict[tuple[str, ...], dict[str, Any]]()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found = json.loads(line)
            for table in found["tables"] if found["weights"] == weights else ():
                if not table["rows"]:  # of a group that the protocol cannot judge
                    continue
                table["measures"] = list(
                    dict.fromkeys(name for row in table["rows"] for name in row["measures"])
                )
                told = [table[name] for name in ("task", "protocol", "words", "data")]
                tables[*told, found["data"]["checksum"], table["rows"][0]["name"]] = table
    return list(tables.values())
