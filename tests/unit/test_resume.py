"""A preparation that is stopped, killed, split or gone on with comes out the same, byte for byte."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from avtool import media
from avtool.data import checks, synth, workers
from avtool.data import prepare as module
from avtool.data import staging as staging_module
from avtool.data.convert import Settings
from avtool.data.dataset import PreparedDataset
from avtool.data.prepare import prepare
from avtool.data.shards import shards_of
from avtool.data.staging import Part, Staging
from avtool.errors import AvtoolError, DataError, UsageError
from tests import clips

ROWS, ROWS_PER_SHARD = 90, 4
MAIN = """
import sys
from functools import partial
from avtool.data import prepare
from avtool.data.convert import Settings
from avtool.cli import main
if __name__ == "__main__":
    prepare.Settings = partial(Settings, rows_per_shard=int(sys.argv.pop(1)))
    main()
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    """The csv of a source with a few short clips, good, odd, refused and missing, each of them many times."""
    folder = tmp_path_factory.mktemp("source")
    for k in range(3):
        clips.clip(folder / f"{k}.mp4", 1.0 + k, seed=k)
    media.write_clip(folder / "3.mp4", clips.moving_frames(5), fps=5, waveform=None, sample_rate=clips.RATE)
    silence = np.zeros(clips.RATE, np.float32)
    media.write_clip(
        folder / "4.mp4", clips.moving_frames(5), fps=5, waveform=silence, sample_rate=clips.RATE
    )
    with (folder / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "split", "label", "video"])
        writer.writerows(
            [f"clip {k}", ("train", "test")[k % 2], f"c{k % 5}", f"{k % 6}.mp4"] for k in range(ROWS)
        )
    return folder / "mine.csv"


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(module, "Settings", partial(Settings, rows_per_shard=ROWS_PER_SHARD))


def contents(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory) -> dict[str, bytes]:
    """What comes out in one go, by one process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    done = start(table, out, "--jobs", "1")
    assert done.wait() == 0
    found = contents(out)
    each = range(-(-ROWS // 2 // ROWS_PER_SHARD))
    tars = {f"shards/{split}-{k:05d}.tar" for split in ("train", "test") for k in each}
    assert {name for name in found if name.endswith(".tar")} == tars
    assert {"dataset.json", "report.json", "report.html", "index/clips.npy"} < set(found)
    assert json.loads(found["report.json"])["prepared"] == ROWS // 2
    return found


def start(table: Path, out: Path, *options: str) -> subprocess.Popen:
    """The command, in a process group of its own."""
    line = [sys.executable, "-c", MAIN, str(ROWS_PER_SHARD), "prepare", "manifest", str(table)]
    return subprocess.Popen(
        [*line, "--out", str(out), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])},
    )


def unfinished(out: Path) -> Path:
    return out.with_name(f"{out.name}.unfinished")


def done_so_far(out: Path) -> int:
    """Rows staged and shards written."""
    count = {name: sum(1 for _ in (unfinished(out) / name).glob("[0-9]*")) for name in ("clips", "parts")}
    return count["clips"] + ROWS_PER_SHARD * count["parts"]


def kill_and_go_on(
    table: Path, out: Path, whole: dict[str, bytes], jobs: list[str], kills: int, seed: int
) -> None:
    """Kill the command ``kills`` times, each time after it has done a random number of rows more."""
    rng = random.Random(seed)
    for kill in range(kills):
        process = start(table, out, "--jobs", rng.choice(jobs))
        goal = done_so_far(out) + rng.randrange(0, max(1, ROWS // kills - 2))
        while done_so_far(out) < goal and process.poll() is None:
            time.sleep(0.001)
        time.sleep(rng.random() * 0.02)
        assert process.poll() is None, f"kill {kill} came too late"
        os.killpg(process.pid, rng.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        process.wait()
        assert not out.exists()
    process = start(table, out, "--jobs", jobs[-1])
    assert process.wait() == 0, process.stderr.read()
    assert contents(out) == whole
    assert not unfinished(out).exists()


def test_killed_three_times_and_gone_on_with_gives_the_same_bytes(table, whole, tmp_path):
    kill_and_go_on(table, tmp_path / "out", whole, ["1", "2"], kills=3, seed=0)


@pytest.mark.proof
@pytest.mark.parametrize("jobs", [["1"], ["2"], ["4"], ["1", "2", "4"]])
def test_killed_twenty_times_and_gone_on_with_gives_the_same_bytes(table, whole, tmp_path, jobs):
    kill_and_go_on(table, tmp_path / "out", whole, jobs, kills=20, seed=len(jobs) + int(jobs[0]))


def children(process: int) -> Iterator[int]:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == process:
            yield int(folder.name)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds the workers in /proc")
def test_a_worker_killed_from_outside_changes_nothing(table, whole, tmp_path):
    process = start(table, tmp_path / "out", "--jobs", "2")
    killed = 0
    while process.poll() is None and killed < 3:
        before, there = done_so_far(tmp_path / "out"), [w for c in children(process.pid) for w in children(c)]
        for worker in there[:1]:
            with suppress(
                ProcessLookupError
            ):  # it was being ended, since another of its pool had been killed
                os.kill(worker, signal.SIGKILL)
                killed += 1
        while there and process.poll() is None and done_so_far(tmp_path / "out") < before + 5:
            time.sleep(0.001)
    assert process.wait() == 0, process.stderr.read()
    assert killed == 3 and contents(tmp_path / "out") == whole


def test_parts_in_any_order_give_the_same_bytes(table, whole, tmp_path):
    out = tmp_path / "out"
    assert not prepare("manifest", table, out=out, part="3/3").sealed
    assert not out.exists() and not (unfinished(out) / "whole" / "dataset.json").exists()
    assert not prepare("manifest", table, out=out, part="1/3").sealed
    report = prepare("manifest", table, out=out, part="2/3")
    assert report.sealed and report.prepared == ROWS // 2
    assert contents(out) == whole


def test_the_command_says_that_a_part_is_not_all(table, tmp_path):
    first = start(table, tmp_path / "out", "--part", "1/2", "--json")
    error = first.communicate()[1].decode()
    assert first.returncode == 0
    assert f"this part is done; {tmp_path / 'out'} is finished when all parts are" in error


def test_parts_at_the_same_time_give_the_same_bytes(table, whole, tmp_path):
    parts = [start(table, tmp_path / "out", "--jobs", "1", "--part", f"{k}/3") for k in (1, 2, 3)]
    assert [part.wait() for part in parts] == [0, 0, 0], [part.stderr.read() for part in parts]
    assert contents(tmp_path / "out") == whole


def test_a_part_that_comes_late_finds_it_finished(table, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    prepare("manifest", table, out=out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    report = prepare("manifest", table, out=out, part="2/3")
    assert f"{out} is finished already" in capsys.readouterr().err
    assert report.sealed and report.prepared == ROWS // 2 and report.out == out
    late = start(table, out, "--part", "1/3")
    assert late.wait() == 0 and b"finished already" in late.stderr.read()
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert contents(out) == whole and not unfinished(out).exists()
    other = table.with_name("fewer.csv")
    other.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with monkeypatch.context() as patch:
        patch.setattr(module, "Settings", partial(Settings, rows_per_shard=ROWS_PER_SHARD, short_side=32))
        with pytest.raises(UsageError, match="exists"):
            prepare("manifest", table, out=out, part="2/3")
    for options in ({"source": other, "part": "2/3"}, {"source": table}):
        with pytest.raises(UsageError, match="exists"):
            prepare("manifest", out=out, **options)
    (out / "made_from.json").unlink()
    with pytest.raises(UsageError, match="exists"):
        prepare("manifest", table, out=out, part="2/3")


def test_a_script_without_a_guard_gets_one_error_that_says_so(table, tmp_path):
    script = tmp_path / "mine.py"
    call = f"prepare('manifest', Path({str(table)!r}), out=Path({str(tmp_path / 'out')!r}), jobs=2)"
    script.write_text(f"from pathlib import Path\nfrom avtool.data.prepare import prepare\n{call}\n")
    environment = {**os.environ, "PYTHONPATH": str(Path(module.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith('if __name__ == "__main__":')
    assert done.stderr.count("avtool.errors.") == 1 and done.stderr.count("mine.py") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse names that are not UTF-8")
def test_a_folder_whose_name_is_not_utf_8(table, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    clips.clip(folder / "a.mp4", 2.0)
    os.mkfifo(folder / "b.mp4")
    (folder / "mine.csv").write_text(
        "id,split,label,video\na,train,x,a.mp4\nb,train,x,b.mp4\nc,train,x,c.mp4\n"
    )
    report = prepare("manifest", folder / "mine.csv", out=folder / "out")
    assert report.counts() == {"prepared": 1, "refused": 1, "missing": 1, "flagged": 1}
    details = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))["details"]
    assert (
        "caf?/b.mp4 is a pipe, a file is needed (write what" in details["b"] and "caf?/c.mp4" in details["c"]
    )


def test_a_run_of_all_finishes_what_parts_began(table, whole, tmp_path, monkeypatch):
    done = interrupted(table, tmp_path / "out", monkeypatch, after=10, part="2/2")
    shards = shards_of((("train", "test")[row % 2] for row in range(ROWS)), ROWS_PER_SHARD)
    assert {shard.number % 2 for shard in shards if {*shard.rows} & {*done}} == {1}
    assert prepare("manifest", table, out=tmp_path / "out").sealed
    assert contents(tmp_path / "out") == whole


def interrupted(table: Path, out: Path, monkeypatch, *, after: int, **options: str) -> list[int]:
    """Prepare until ``after`` rows are done and then press Ctrl-C; the rows that were done."""
    done = []

    def run_all(work, tasks):
        for task in tasks:
            if len(done) == after:
                raise KeyboardInterrupt
            yield task, work(task)
            done.append(task[0])

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_engine", lambda *given: run_all)
        prepare("manifest", table, out=out, **options)
    return done


def test_no_clip_is_done_twice_and_the_message_says_how_to_go_on(table, whole, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    first = interrupted(table, out, monkeypatch, after=30)
    kept = capsys.readouterr().err.splitlines()[-1]
    assert kept.endswith(f"to go on: avtool prepare manifest {table} rows_per_shard=4 --out {out}")
    second = interrupted(table, out, monkeypatch, after=25)
    assert not set(first) & set(second) and len(first) + len(second) == 55
    done = []
    monkeypatch.setattr(module, "_engine", lambda *given: lambda work, tasks: noting(done, work, tasks))
    prepare("manifest", table, out=out)
    assert sorted([*first, *second, *done]) == list(range(ROWS))
    assert contents(out) == whole


def noting(done: list[int], work, tasks) -> Iterator:
    for task in tasks:
        done.append(task[0])
        yield task, work(task)


def test_the_same_source_by_another_way_is_the_same_source(table, whole, tmp_path, monkeypatch):
    interrupted(table, tmp_path / "out", monkeypatch, after=30)
    monkeypatch.chdir(table.parent)
    prepare("manifest", Path(table.name), out=tmp_path / "out")
    assert PreparedDataset(tmp_path / "out").checksum == json.loads(whole["dataset.json"])["checksum"]


def test_an_unfinished_folder_is_no_data_set_and_names_the_command(table, tmp_path, monkeypatch):
    interrupted(table, tmp_path / "out", monkeypatch, after=30)
    assert not list(tmp_path.rglob("dataset.json"))
    with pytest.raises(DataError, match="not prepared to its end") as caught:
        PreparedDataset(tmp_path / "out")
    assert (
        caught.value.hint
        == f"go on with: avtool prepare manifest {table} rows_per_shard=4 --out {tmp_path / 'out'}"
    )


def test_another_source_or_other_settings_are_refused_without_force(table, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    interrupted(table, out, monkeypatch, after=30)
    text = table.read_text()
    other = table.with_name("other.csv")
    other.write_text(text.replace("clip 7,", "clip seven,"))
    with pytest.raises(
        UsageError, match="unfinished preparation with another name: mine, now other"
    ) as caught:
        prepare("manifest", other, out=out)
    assert f"avtool prepare manifest {table}" in caught.value.hint and "--force" in caught.value.hint
    try:
        table.write_text(text.replace("clip 7,", "clip seven,"))
        with pytest.raises(UsageError, match=r"of other rows: the annotations of .*mine\.csv are not"):
            prepare("manifest", table, out=out)
    finally:
        table.write_text(text)
    with monkeypatch.context() as patch:
        patch.setattr(module, "Settings", partial(Settings, rows_per_shard=ROWS_PER_SHARD, short_side=32))
        with pytest.raises(UsageError, match=r"with another short_side: 256, now 32"):
            prepare("manifest", table, out=out)
        report = prepare("manifest", table, out=out, force=True)
        assert PreparedDataset(report.out).record(0).height == 32
    prepare("manifest", table, out=out, force=True)
    assert contents(out) == whole


def test_a_finished_folder_is_replaced_at_the_end_only(table, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.json").write_text("old")
    interrupted(table, out, monkeypatch, after=30, force=True)
    assert contents(out) == {"dataset.json": b"old"}
    prepare("manifest", table, out=out, force=True)
    assert contents(out) == whole and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_processes_do_not_do_the_same(table, tmp_path, monkeypatch):
    out, seen = tmp_path / "out", []

    def run_all(work, tasks):
        for part in (None, "1/1", "1/2"):
            with pytest.raises(UsageError, match="worked on by another process"):
                prepare("manifest", table, out=out, part=part)
            seen.append(part)
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        monkeypatch.setattr(module, "_engine", lambda *given: run_all)
        prepare("manifest", table, out=out)
    assert len(seen) == 3


def test_a_folder_of_the_users_own_is_left_alone(table, tmp_path):
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="not replaced"):
        prepare("manifest", table, out=tmp_path / "out", force=True)
    assert (tmp_path / "out.unfinished" / "thesis.tex").exists()


def test_where_nothing_was_done_nothing_is_left(table, tmp_path, monkeypatch):
    interrupted(table, tmp_path / "out", monkeypatch, after=0)
    assert list(tmp_path.iterdir()) == []


def test_a_clip_that_brings_its_workers_down_is_refused_by_name(table, tmp_path, monkeypatch):
    def run_all(work, tasks):
        for task in tasks:
            yield task, workers.Crash("killed by SIGSEGV") if task[0] == 1 else work(task)

    monkeypatch.setattr(module, "_engine", lambda *given: run_all)
    report = prepare("manifest", table, out=tmp_path / "out")
    assert report.ids[checks.CRASHED] == ["clip 1"] and report.prepared == ROWS // 2 - 1
    assert report.details["clip 1"].endswith("1.mp4: 2 processes died of it, the last killed by SIGSEGV")


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "1/0", "a/b", "1/2/3", "-1/2", ""])
def test_a_part_that_is_none(table, tmp_path, part):
    with pytest.raises(UsageError, match="is not I/N"):
        prepare("manifest", table, out=tmp_path / "out", part=part)
    assert list(tmp_path.iterdir()) == []


def test_synth_comes_out_the_same_in_any_number_of_jobs_and_parts_and_after_a_stop(tmp_path, monkeypatch):
    how = {"clips": 10, "seed": 1}  # three shards
    prepare("synth", out=tmp_path / "one", jobs=1, **how)
    prepare("synth", out=tmp_path / "two", jobs=2, **how)
    for part in ("2/2", "1/2", "2/2"):  # the last of these finds all done
        report = prepare("synth", out=tmp_path / "parts", part=part, **how)
        assert report.sealed == (part == "1/2" or (tmp_path / "parts").is_dir())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_engine", lambda *given: partial(stopping, 3))
        prepare("synth", out=tmp_path / "stopped", **how)
    with pytest.raises(UsageError, match=r"with another seed: 1, now 2"):
        prepare("synth", out=tmp_path / "stopped", **{**how, "seed": 2})
    prepare("synth", out=tmp_path / "stopped", **how)
    one = contents(tmp_path / "one")
    assert all(contents(tmp_path / name) == one for name in ("two", "parts", "stopped"))


def test_another_rendering_of_synth_is_refused_by_name(tmp_path, monkeypatch):
    how = {"out": tmp_path / "out", "clips": 5}  # two shards
    prepare("synth", part="1/2", **how)
    with monkeypatch.context() as patch:
        patch.setattr(synth, "RENDERING", 99)
        for part in ("2/2", None):
            with pytest.raises(
                UsageError, match="another format: 4, rendering 2, now 4, rendering 99"
            ) as refused:
                prepare("synth", part=part, **how)
            assert "the version of avtool that began it" in refused.value.hint
    prepare("synth", part="2/2", **how)
    monkeypatch.setattr(synth, "RENDERING", 99)
    with pytest.raises(UsageError, match="out exists"):
        prepare("synth", part="2/2", **how)


def stopping(after: int, work, tasks) -> Iterator:
    for task in islice(tasks, after):
        yield task, work(task)
    raise KeyboardInterrupt


@pytest.mark.proof
def test_ray_gives_the_same_bytes(table, whole, tmp_path):
    prepare("manifest", table, out=tmp_path / "out", engine="ray", jobs=2)
    assert contents(tmp_path / "out") == whole


def test_a_ray_cluster_that_is_not_there_is_named(table, tmp_path):
    with pytest.raises(AvtoolError, match="cannot join Ray at localhost:1: ") as caught:
        prepare("manifest", table, out=tmp_path / "out", engine="ray", address="localhost:1")
    assert "ray start --head" in caught.value.hint and list(tmp_path.iterdir()) == []


def test_without_ray_the_error_says_what_to_install(table, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("avtool.libraries.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="--engine ray needs ray, which is not installed") as caught:
        prepare("manifest", table, out=tmp_path / "out", engine="ray")
    assert caught.value.hint == "pip install 'avtool[ray]'"


def test_engines_that_are_none(table, tmp_path):
    with pytest.raises(UsageError, match="unknown engine spark"):
        prepare("manifest", table, out=tmp_path / "out", engine="spark")
    with pytest.raises(UsageError, match="an address is that of a Ray cluster"):
        prepare("manifest", table, out=tmp_path / "out", address="head:6379")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_another_part_begins_meanwhile_is_no_strangers(tmp_path, monkeypatch):
    one, another = Staging(tmp_path / "out"), Staging(tmp_path / "out")
    check = staging_module.check_output

    def begun_before_it(*arguments, **options):
        (another.folder / "locks").mkdir(parents=True)
        check(*arguments, **options)

    monkeypatch.setattr(staging_module, "check_output", begun_before_it)
    with one.opened({"made_with": [{}]}, Part(1, 2), force=False):
        assert (one.folder / "plan.json").is_file()


def test_a_folder_that_one_is_in_is_not_begun_again(tmp_path, monkeypatch):
    staging = Staging(tmp_path / "out")
    with staging.opened({"made_with": [{}]}, Part(), force=False):
        pass
    monkeypatch.chdir(staging.folder)
    with pytest.raises(UsageError, match="you are in it"), staging.opened({}, Part(), force=True):
        pass


def test_parts_that_start_together_begin_once(tmp_path):
    """Each holds its part before the first of them has written the plan."""
    staging, plan = Staging(tmp_path / "out"), {"name": "mine", "command": "", "made_with": [{}]}
    with ExitStack() as held:
        (staging.folder / "locks").mkdir(parents=True)
        assert held.enter_context(staging._lock("1-of-3"))
        with Staging(tmp_path / "out").opened(plan, Part(2, 3), force=False):
            assert staging.whole.is_dir()
