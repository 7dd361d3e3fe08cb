"""What the small recipes reach on a prepared data set: every row of every task's tables, mean and spread over seeds.

    python docs/compare_seeds.py DATA OUT [--tasks classify,localize,separate,segment] [--seeds 0,1,2]

For every seed a tiny model is pretrained on the training split, fine-tuned for each task by the shipped recipe, and
evaluated on the test split by all protocols that the data can answer. What is there already is not done again, so it
can be stopped and started, and two of these, with OMP_NUM_THREADS=1 each, can share the seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path

from compare_fusion import avtool


def tables(data: Path, out: Path, task: str, seed: str) -> list[dict]:
    """The tables of one fine-tuned model, made where they are not there yet."""
    pretrained, run = out / f"pretrain-{seed}", out / f"{task}-{seed}"
    found = run.with_suffix(".json")
    if not found.exists():
        common = ("--data", str(data), "--seed", seed, "--resume")
        if not (pretrained / "done").exists():
            avtool("pretrain", "--recipe", "tiny", "--out", str(pretrained), *common)
            (pretrained / "done").touch()
        begin = ("--recipe", f"tiny-{task}", "--from", str(pretrained))
        avtool("finetune", task, *begin, "--out", str(run), *common)
        avtool("evaluate", str(run), "--data", str(data), "--out", str(found))
    return json.loads(found.read_text())["tables"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tasks", default="classify,localize,separate,segment")
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    values: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
    headings: dict[tuple[str, str], str] = {}
    for seed in given.seeds.split(","):
        for task in given.tasks.split(","):
            for table in tables(given.data, given.out, task, seed):
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
        print(f"  {measure:<16}{name:<52}{statistics.mean(found):8.2f}{spread} ({len(found)} seeds)")


if __name__ == "__main__":
    main()
