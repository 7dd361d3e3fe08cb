"""``avtool score``: predictions and prepared data in, tables by named protocols out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from avtool.cli.evaluate import complete_protocols, names_in, parse_fold, print_tables
from avtool.commands import argument, command, examples, option, print_json

EPILOG = examples(
    "avtool score maps/ --data DIR --protocol ciou-median,ciou-swept",
    "avtool score pred_masks/ --data data/prepared/avsbench --protocol avs-tpavi",
    "avtool score scores.csv --data DIR --protocol top1,top5 --json",
    "avtool score --compare mine/ theirs/ --data DIR --protocol pointing",
    next_command="avtool evaluate RUN --data DIR",
)
PROTOCOLS = "Comma-separated protocols of one task; an unknown name lists them."


@command("seed", "threads", "json", "force")
def score(
    files: Annotated[
        list[Path], argument("FILE", "Files named by clip (npy, npz, png, csv, wav), or folders of them.")
    ],
    *,
    data: Annotated[Path, option("DIR", "Prepared data.")],
    protocol: Annotated[str, option("P,...", PROTOCOLS, autocompletion=complete_protocols)],
    split: Annotated[str, option("NAME", "Split to judge, or all.")] = "test",
    fold: Annotated[Any, option("K/N", "Only fold K of N by recording.", parser=parse_fold)] = None,
    compare: Annotated[
        bool, option(None, "The two FILEs are two sets of predictions: also their difference.", "--compare")
    ] = False,
    some: Annotated[
        bool, option(None, "Leave out clips without a prediction, and count them.", "--some")
    ] = False,
    vggsounder: Annotated[
        Path | None, option("CSV", "VGGSounder's labels (protocol vggsounder).", usual="its package's")
    ] = None,
    batch_size: Annotated[int, option("N", "Samples at once.", min=1)] = 32,
    out: Annotated[Path | None, option("JSON", "Save the tables as JSON.")] = None,
    json: bool,
    **options: Any,
) -> None:
    """Score any program's predictions by named protocols, beside floors and ceilings."""
    from avtool.score import score as run

    tables = run(
        files,
        data,
        protocols=names_in(protocol),
        split=split,
        fold=fold,
        compare=compare,
        some=some,
        vggsounder=vggsounder,
        batch_size=batch_size,
        out=out,
        **options,
    )
    if json:
        from avtool.data.dataset import PreparedDataset
        from avtool.score import metrics

        print_json(metrics(tables, files=files, data=PreparedDataset(data, split), fold=fold))
        return
    print_tables(tables)
