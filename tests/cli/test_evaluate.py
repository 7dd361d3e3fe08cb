"""``avtool evaluate`` as it prints."""

from __future__ import annotations

import pytest

from avtool.cli.evaluate import _print
from avtool.tasks.table import CONTROL, MODEL, Measure, Row, Table


@pytest.mark.parametrize("names", [["pointing"], ["top1", "top5"], ["SDR", "SIR", "SAR", "SDR improvement"]])
def test_a_table_keeps_its_rows_names_and_all_intervals_in_80_columns(
    names: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    measures = {name: Measure(29.5 + k, 28.25 + k, 30.75 + k) for k, name in enumerate(names)}
    rows = [Row("fused", MODEL, measures), Row("pictures exchanged", CONTROL, measures)]
    _print(Table("separate", "bss-eval", "a rule", "dB", rows, samples=480, recordings=127, seed=0))
    printed = capsys.readouterr().out
    assert all(len(line) <= 80 for line in printed.splitlines()) and "…" not in printed
    assert printed.count("fused") == 1 and printed.count("(control)") == 1
    close = printed.replace(", ", ",")
    for k in range(len(names)):
        assert close.count(f"[{28.25 + k:.2f},{30.75 + k:.2f}]") == 2


def test_what_rounds_to_nothing_has_no_sign(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("pictures exchanged", CONTROL, {"SDR": Measure(-0.001, -0.004, -0.002)})]
    _print(Table("separate", "bss-eval", "a rule", "dB", rows, samples=8, recordings=8, seed=0))
    printed = capsys.readouterr().out
    assert "0.00 [0.00, 0.00]" in printed and "-0.00" not in printed


def test_groups_are_sections_of_one_table_with_their_counts_and_what_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    rows = [Row("trained", MODEL, {"pointing": Measure(50.0, 40.0, 60.0)})]
    known = {"seed": 0, "data": "scenes, split test"}
    judged = Table(
        "localize", "pointing", "a rule", "%", rows, 7, 7, group={"scenario": "off-screen"}, **known
    )
    unknown = {"left_out": {"because no clip has boxes": 5}, **known}
    silent, hidden = (
        Table("localize", "pointing", "", "%", [], 0, 0, group={"scenario": name}, **unknown)
        for name in ("silence", "not in view")
    )
    _print(judged, silent, hidden)
    printed = " ".join(capsys.readouterr().out.split())
    assert "localize by pointing, by scenario" in printed
    assert "off-screen: n = 7" in printed and "silence: n = 0" in printed
    assert "silence, not in view: 5 clips left out because no clip has boxes" in printed


def test_a_measure_of_nothing_is_an_empty_cell(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("model", MODEL, {"F": Measure(float("nan"))})]
    _print(Table("segment", "avs-tpavi", "a rule", "%", rows, samples=8, recordings=8, seed=0))
    assert "nan" not in capsys.readouterr().out
