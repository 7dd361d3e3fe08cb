"""Does pretraining help, and does the kind of fusion matter? One table, from the commands that anybody would type.

    python docs/compare_fusion.py OUT [--clips 1200] [--seeds 0,1,2] [--kinds token,dense,factorized]

For every kind of fusion and seed: a tiny model is pretrained on rendered clips, then fine-tuned from those weights and
from random ones to classify and to localize, and each is evaluated on held-out clips. What is there already is not done
again, so it can be stopped and started, and two of these, with OMP_NUM_THREADS=1 each, can share the seeds. About two
hours on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

TASKS = {"classify": ("top1", "fused"), "localize": ("pointing", "trained")}
"""The protocol of each task and the row of its table that is compared."""
STEPS = {"pretrain": 200, "classify": 40, "localize": 800}
"""So few that all of it fits in two hours of two cores, and that classifying does not become perfect whatever it starts
from; fewer steps of localizing than these end before a sound's picture is found at all."""


def avtool(*arguments: str) -> None:
    print("$ avtool", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "avtool", *arguments], check=True)


def evaluated(out: Path, data: Path, *, kind: str, seed: str, task: str, start: str) -> list[dict]:
    """The rows of one fine-tuned model's table, made where they are not there yet."""
    protocol, _ = TASKS[task]
    pretrained, run = out / f"{kind}-{seed}", out / f"{kind}-{seed}-{task}-{start}"
    fusion, seeded = f"model.fusion.kind={kind}", ("--seed", seed)
    if start == "pretrained" and not (pretrained / "done").exists():
        avtool(
            "pretrain",
            "--recipe",
            "tiny",
            fusion,
            "--data",
            str(data),
            "--out",
            str(pretrained),
            "--resume",
            *seeded,
            f"max_steps={STEPS['pretrain']}",
        )
        (pretrained / "done").touch()
    metrics = run.with_suffix(".json")
    if not metrics.exists():
        begin = (
            ("--from", str(pretrained))
            if start == "pretrained"
            else ("--from", "none", "--allow-random", fusion)
        )
        command = (
            "finetune",
            task,
            "--recipe",
            f"tiny-{task}",
            *begin,
            "--data",
            str(data),
            "--out",
            str(run),
        )
        avtool(*command, "--resume", *seeded, f"max_steps={STEPS[task]}", "train.eval_every=0")
        avtool("evaluate", str(run), "--data", str(data), "--protocol", protocol, "--out", str(metrics))
    return json.loads(metrics.read_text())["tables"][0]["rows"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--clips", type=int, default=1200)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--kinds", default="token,dense,factorized")
    given = parser.parse_args()
    data = given.out / "data"
    if not data.exists():
        avtool("prepare", "synth", "--clips", str(given.clips), "--out", str(data))
    scores: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for seed in given.seeds.split(","):
        for kind in given.kinds.split(","):
            for task, (protocol, wanted) in TASKS.items():
                for start in ("pretrained", "scratch"):
                    for row in evaluated(given.out, data, kind=kind, seed=seed, task=task, start=start):
                        if row["role"] != "model" or row["name"] == wanted:
                            name = start if row["name"] == wanted else f"{start}, {row['name']}"
                            scores[task, kind, name].append(row["measures"][protocol]["value"])
    for (task, kind, name), values in scores.items():
        spread = f" +- {statistics.stdev(values):.1f}" if len(values) > 1 else ""
        print(
            f"{task:<10}{kind:<12}{name:<60}{statistics.mean(values):6.1f} %{spread} (seeds: {len(values)})"
        )


if __name__ == "__main__":
    main()
