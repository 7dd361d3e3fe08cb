"""What a run leaves behind beside its checkpoints: metrics.jsonl, recipe.yaml and run.json."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from avtool import __version__
from avtool.files import atomic_file

METRICS = "metrics.jsonl"
RUN_JSON = "run.json"


class MetricsLog:
    """metrics.jsonl: one JSON object a line, each with its ``step``. What lies after ``resume_step`` is dropped when a
    run goes on from there, so that no step stands twice."""

    def __init__(self, run: Path, *, resume_step: int) -> None:
        self.path = run / METRICS
        kept = [row for row in read_metrics(run) if row["step"] <= resume_step] if self.path.exists() else []
        with atomic_file(self.path) as partial:
            partial.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")

    def write(self, **values: Any) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl; a last line that was cut off is left out."""
    rows = []
    for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def read_run_facts(run: Path) -> dict[str, Any]:
    """A run's run.json; nothing where there is none."""
    path = run / RUN_JSON
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


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
    with atomic_file(run / RUN_JSON) as partial:
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
