"""JSON that every reader takes: no NaN, no Infinity, by one function."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import avtool
from avtool.commands import print_json
from avtool.files import atomic_file, json_text, write_json
from avtool.tasks.table import Measure, Row, Table


def strict(text: str) -> Any:
    return json.loads(text, parse_constant=pytest.fail)


def test_a_file_is_whole_or_not_there_and_its_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    gone = subprocess.Popen(["true"])
    gone.wait()
    left, others = (
        tmp_path / f".x.json.partial-{gone.pid}.json",
        tmp_path / f".x.json.partial-{os.getppid()}.json",
    )
    for remains in (left, others):
        remains.touch()
    with pytest.raises(ZeroDivisionError), atomic_file(path) as partial:
        assert partial.suffix == ".json" and str(os.getpid()) in partial.name
        partial.touch()
        raise ZeroDivisionError
    assert sorted(tmp_path.iterdir()) == [
        others
    ]  # what a killed process left is gone, what one writes is not
    write_json(path, {"a": math.nan})
    assert path.read_text() == '{\n  "a": null\n}\n'


def test_what_is_not_finite_is_null_however_deep() -> None:
    value = {
        "a": [1.5, math.nan, (math.inf, -math.inf)],
        "b": {"c": np.float32("nan"), "d": np.float64("inf"), "e": np.array(2.5), "f": np.int64(3)},
        "g": torch.tensor(math.nan),
        "h": [None, True, "NaN", 10**400],
    }
    assert strict(json_text(value)) == {
        "a": [1.5, None, [None, None]],
        "b": {"c": None, "d": None, "e": 2.5, "f": 3},
        "g": None,
        "h": [None, True, "NaN", 10**400],
    }


def test_what_is_finite_is_written_as_it_was() -> None:
    value = {"b": [1, 0.1, 1e-300, "\u00e4"], "a": {"2": (True, None)}, 3: []}
    for options in ({}, {"indent": 1, "ensure_ascii": False}, {"separators": (",", ":")}):
        assert json_text(value, **options) == json.dumps(value, **options)


def test_nothing_else_in_the_package_writes_json() -> None:
    root = Path(avtool.__file__).parent
    writers = [
        str(path.relative_to(root))
        for path in sorted(root.rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(
            r"json\.dumps?\b|JSONEncoder|from json import|import json as|orjson|print_json\(data", line
        )
    ]
    assert set(writers) == {"files.py"}


def test_what_is_printed_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"value": math.nan, "of": np.float32("inf"), "at": Path("x"), "name": "\udcff"})
    assert strict(capsys.readouterr().out) == {"value": None, "of": None, "at": "x", "name": "\udcff"}


def test_a_table_with_a_number_that_is_undefined() -> None:
    row = Row("cosine", "model", {"pointing": Measure(math.nan, math.nan, math.nan), "AUC": Measure(50.0)})
    table = Table("localize", "pointing", "a rule", "%", [row], samples=1, recordings=1, seed=0)
    for content in (table.as_dict(), strict(json_text(table.as_dict()))):
        (found,) = content["rows"]
        assert found["measures"] == {
            "pointing": {"value": None, "low": None, "high": None},
            "AUC": {"value": 50.0, "low": None, "high": None},
        }
