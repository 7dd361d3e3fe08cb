"""What the small recipes reach on a prepared data set: every row of every task's tables, mean and spread over seeds.

    python docs/compare_seeds.py DATA OUT [--tasks classify,localize,separate,segment] [--seeds 0,1,2]
        [--steps localize=800,separate=700] [--judged DATA]

For every seed a tiny model is pretrained on the training split and learns to classify from there, another learns to
localize from nothing, and from it others to separate and to segment, all by the shipped recipes; each is evaluated on
the test split of DATA, or of what is --judged, by all protocols that the data can answer, and localizers by
negative-audio too. What is there already is not done again, so it can be stopped and started, and two of these, with
OMP_NUM_THREADS=1 each, can share the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

from compare_fusion import avtool

PRETRAIN, TASKS = "pretrain", ("classify", "localize", "separate", "segment")
BEGINS_FROM = {"classify": PRETRAIN, "separate": "localize", "segment": "localize"}
"""Where a task does not begin from nothing. A localizer knows by sight what sounds; itself it learns less from a short
pretraining than from nothing."""
JUDGED_BY = {"localize": "pointing,ciou-median,ciou-adaptive,negative-audio"}
"""Where it is not by the usual protocols."""


def trained(data: Path, out: Path, task: str, seed: str, steps: dict[str, str]) -> Path:
    """The run of a task, made where it is not there yet; ``steps`` by task, where not its recipe's."""
    run = out / f"{task}-{seed}"
    if not (run / "done").exists():
        common = ["--out", str(run), "--data", str(data), "--seed", seed, "--resume"]
        common += [f"max_steps={steps[task]}"] if task in steps else []
        if task == PRETRAIN:
            avtool("pretrain", "--recipe", "tiny", *common)
        else:
            start = ["none", "--allow-random"]
            if task in BEGINS_FROM:
                start = [str(trained(data, out, BEGINS_FROM[task], seed, steps))]
            avtool("finetune", task, "--recipe", f"tiny-{task}", "--from", *start, *common)
        (run / "done").touch()
    return run


def tables(data: Path, out: Path, task: str, seed: str, *, judged: Path, steps: dict[str, str]) -> list[dict]:
    """The tables of one fine-tuned model, made where they are not there yet."""
    found = out / f"{task}-{seed}.json"
    if not found.exists():
        run = trained(data, out, task, seed, steps)
        protocols = ["--protocol", JUDGED_BY[task]] if task in JUDGED_BY else []
        avtool("evaluate", str(run), "--data", str(judged), "--out", str(found), *protocols)
    return json.loads(found.read_text())["tables"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument(
        "--judged", type=Path, help="other data, whose test clips are not among DATA's to train on"
    )
    parser.add_argument("--steps", default="", help="where not the recipe's, as localize=800,separate=700")
    given = parser.parse_args()
    tasks, steps = given.tasks.split(","), [pair.split("=") for pair in given.steps.split(",") if pair]
    if unknown := {*tasks, *(pair[0] for pair in steps)} - {PRETRAIN, *TASKS}:
        parser.error(f"there is no task {min(unknown)!r}: {', '.join(TASKS)}")
    if wrong := ["=".join(pair) for pair in steps if len(pair) != 2 or not pair[1].isdigit()]:
        parser.error(f"--steps {wrong[0]} is not TASK=STEPS")
    if not given.data.is_dir():
        parser.error(f"there are no prepared data at {given.data}")
    judged = given.judged or given.data
    values: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    headings: dict[tuple[str, str], str] = {}
    for seed in given.seeds.split(","):
        for task in tasks:
            for table in tables(given.data, given.out, task, seed, judged=judged, steps=dict(steps)):
                left_out = "".join(f"; {count} left out, {why}" for why, count in table["left_out"].items())
                headings[task, table["protocol"]] = f"n = {table['samples']}{left_out}\n  {table['words']}"
                for row in table["rows"]:
                    for measure, interval in row["measures"].items():
                        values[task, table["protocol"], measure, row["name"]].append(interval["value"])
    heading = None
    for (task, protocol, measure, name), found in values.items():
        if heading != (heading := (task, protocol)):
            print(f"\n{task} by {protocol}: {headings[heading]}")
        spread = f" +- {statistics.stdev(found):.2f}" if len(found) > 1 else ""
        print(f"  {measure:<16}{name:<52}{statistics.mean(found):8.2f}{spread} (seeds: {len(found)})")


if __name__ == "__main__":
    main()
