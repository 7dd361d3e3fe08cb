"""What an evaluation has to do with: a checkpoint or what somebody predicted, clips, and how to go through them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from avtool.checkpoint import check_finite, load_model
from avtool.config.checkpoint import Config
from avtool.data.dataset import PreparedDataset
from avtool.data.loader import batches_in_order
from avtool.data.views import EvaluationViews, FixedViews, WindowViews
from avtool.distributed import World
from avtool.errors import DataError
from avtool.features import LogMel
from avtool.metrics.bootstrap import bootstrap_mean, bootstrap_statistic
from avtool.model.build import random_model
from avtool.progress import progress_bar
from avtool.tasks.given import Predictions
from avtool.tasks.settings import view_size
from avtool.tasks.table import Measure, Row, Sampled, Table

Key = TypeVar("Key", bound=Hashable)
Compute = Callable[[dict[str, Tensor]], Mapping[Key, Tensor]]
"""What is computed of a batch on the device: tensors (B, ...) by name."""


@dataclass
class Context:
    """An evaluation's surroundings.

    ``chosen`` are the numbers of the clips of ``dataset`` to evaluate on, ``part`` what they are in words. Where these
    are a ``group`` of the clips that are judged, ``judged`` are all of them, and ``shared`` keeps, by name, what is the
    same for every group. ``windows`` of a clip are averaged where a protocol does so, and ``maps`` (none: the model's
    own kind) are evaluated, with ``object_prior``, a ResNet's weights, also mixed with what that finds. ``vggsounder``
    is a csv of labels in place of that package's. ``predictions`` collects what ``--save-predictions`` writes: arrays
    by name, with ``keep`` large ones as well. Where predictions are ``given`` (what reads them), these are judged and
    no model, and there is no ``config``. Results are the same for any ``batch_size``, any ``workers``, and any number
    of processes in ``world``, which share the samples and leave what is made of them to rank 0.
    """

    checkpoint: Path
    config: Config
    dataset: PreparedDataset
    chosen: np.ndarray
    device: torch.device
    batch_size: int = 32
    workers: int = 0
    seed: int = 0
    windows: int = 1
    part: str = ""
    group: Mapping[str, str] = field(default_factory=dict)
    judged: np.ndarray | None = None
    shared: dict[str, Any] = field(default_factory=dict)
    maps: Sequence[str] = ()
    object_prior: Path | None = None
    vggsounder: Path | None = None
    world: World = field(default_factory=World)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    keep: bool = False
    given: Callable[..., Predictions] | None = None

    def load(self) -> tuple[nn.Module, LogMel]:
        """The model and its spectrogram, on the device. CheckpointError where a weight is not finite: no number that is
        made of it would mean anything."""
        model, log_mel, _ = load_model(self.checkpoint, device=self.device)
        check_finite(model.state_dict(), source=self.checkpoint)
        return model, log_mel

    def untrained(self) -> nn.Module:
        """The same model with random weights, drawn from ``seed``: the control of what training has to do with it."""
        model = random_model(self.config.kind, self.config.settings, seed=self.seed)
        return model.to(self.device).eval()

    def view_size(self) -> dict[str, Any]:
        """The frame's size and the length of sound that the model was made for."""
        return view_size(self.config)

    def views(self) -> EvaluationViews:
        """The clips' own evaluation views."""
        return EvaluationViews(self.dataset, **self.view_size())

    def in_windows(self, what: str) -> str:
        """How many windows of a clip there are, and that ``what`` is averaged over them."""
        return f"{self.windows} windows a clip, {what} averaged" if self.windows > 1 else "1 window a clip"

    def each(
        self, views: FixedViews, numbers: np.ndarray, compute: Compute[Key], *, averaged: int = 1
    ) -> dict[Key, np.ndarray]:
        """What ``compute`` gives of each of the samples ``numbers`` (N,) of ``views``, in their order: arrays (N, ...)
        by name; with ``averaged`` samples in a row as one, (N / averaged, ...).

        The processes share the samples. Rank 0 has the arrays, another has none ({}) and is done with its part.
        """
        share = self.world.shard(len(numbers) // averaged)
        own = self._computed(
            views, numbers[share.start * averaged : share.stop * averaged].tolist(), compute, averaged
        )
        names: list[Key] = next(filter(None, self.world.gather(list(own))), [])
        found = {}
        for name in names:  # one by one: a map of every pixel is large, and rank 0 holds it twice
            parts = self.world.gather_to_rank0(own.pop(name, None))
            if self.world.main:
                found[name] = np.concatenate([part for part in parts if part is not None])
        return found

    @torch.no_grad()
    def _computed(
        self, views: FixedViews, numbers: list[int], compute: Compute[Key], averaged: int
    ) -> dict[Key, np.ndarray]:
        """``each`` of this process's own samples."""
        found: dict[Key, list[Tensor]] = defaultdict(list)
        with progress_bar("evaluating", total=len(numbers), unit="samples", brief=True) as bar:
            for batch in batches_in_order(views, numbers, batch_size=self.batch_size, workers=self.workers):
                on_device = {
                    name: value.to(self.device) if isinstance(value, Tensor) else value
                    for name, value in batch.items()
                }
                for name, value in compute(on_device).items():
                    found[name].append(value.cpu())
                bar.advance(min(self.batch_size, len(numbers) - bar.done))
        whole = {name: torch.cat(found.pop(name)) for name in list(found)}
        if averaged > 1:
            whole = {name: value.unflatten(0, (-1, averaged)).mean(dim=1) for name, value in whole.items()}
        return {name: value.numpy() for name, value in whole.items()}

    def each_clip(
        self, clips: np.ndarray, compute: Compute[Key], *, dataset: PreparedDataset | None = None
    ) -> dict[Key, np.ndarray]:
        """``each`` of ``clips`` (N,) of ``dataset`` (None: the one that is judged), its windows averaged."""
        views = WindowViews(dataset or self.dataset, **self.view_size(), windows=self.windows)
        return self.each(views, views.numbers(clips), compute, averaged=self.windows)

    def unjudged(self, *splits: str, purpose: str) -> tuple[PreparedDataset, np.ndarray]:
        """Clips that are not judged: another split's, the first of ``splits`` that there is, or of one split the rest.
        DataError where every clip is judged and none is left for ``purpose``."""
        dataset = self.dataset
        others = [name for name, clips in dataset.splits.items() if clips and name != dataset.split]
        if dataset.split != "all" and others:
            other = PreparedDataset(
                dataset.folder, next((name for name in splits if name in others), others[0])
            )
            return other, np.arange(len(other))
        rest = np.setdiff1d(np.arange(len(dataset)), self.chosen if self.judged is None else self.judged)
        if not len(rest):
            raise DataError(
                f"{dataset.folder} leaves no clips {purpose}: all are judged",
                hint="choose --split test, or --fold 1/5",
            )
        return dataset, rest

    def ids(self, clips: np.ndarray) -> list[str]:
        """The ids of ``clips`` (N,)."""
        return [self.dataset.record(int(i)).id for i in clips]

    def read_given(
        self, *arrays: str, names: Sequence[str] | None = None, beside: bool = False
    ) -> Predictions:
        """What is ``given`` for samples of these ``names`` (None: the ids of the split's clips). ``arrays``: patterns
        of what an .npz with ids calls them, ``beside`` others: without these there is nothing."""
        assert self.given is not None
        names = self.ids(np.arange(len(self.dataset))) if names is None else names
        return self.given(names, arrays=arrays, rate=self.dataset.sample_rate, beside=beside)

    def recordings(self, clips: np.ndarray) -> list[str]:
        """What each of the ``clips`` was recorded in."""
        return [self.dataset.recording(int(i)) for i in clips]

    def measured(self, values: np.ndarray, recordings: Sequence[str], *, scale: float = 100) -> Measure:
        """The mean of per-sample ``values`` (N,) times ``scale``, with its interval: recordings are resampled, for
        samples of one recording are not independent."""
        values = np.asarray(values, np.float64) * scale
        found = bootstrap_mean(values, groups=np.asarray(recordings), seed=self.seed)
        return Measure(found.value, found.low, found.high, Sampled(recordings, values))

    def measured_whole(
        self, statistic: Callable[[np.ndarray], float], recordings: Sequence[str], *, draws: int
    ) -> Measure:
        """A number of a whole set in per cent, 100 times ``statistic`` of the samples chosen, with its interval."""
        if not len(recordings):
            return Measure(float("nan"))
        found = bootstrap_statistic(
            statistic, len(recordings), groups=np.asarray(recordings), seed=self.seed, draws=draws
        )
        of = Sampled(recordings, statistic=statistic, draws=draws)
        return Measure(100 * found.value, 100 * found.low, 100 * found.high, of)

    def difference(self, first: Measure, second: Measure) -> Measure:
        """What ``first`` has more than ``second``, with its interval: paired, for both are drawn from the same samples.
        DataError where they were measured of others."""
        one, other = first.of, second.of
        if one is None or other is None:
            return Measure(first.value - second.value)
        if list(one.recordings) != list(other.recordings):
            raise DataError(
                "the two sets of predictions were not judged on the same samples: one has silent estimates where the "
                "other has none",
                hint="score each of them alone",
            )
        if one.values is not None and other.values is not None:
            return self.measured(one.values - other.values, one.recordings, scale=1)
        assert one.statistic and other.statistic
        of_one, of_other = one.statistic, other.statistic
        return self.measured_whole(
            lambda chosen: of_one(chosen) - of_other(chosen), one.recordings, draws=one.draws
        )

    def table(
        self,
        task: str,
        protocol: str,
        words: str,
        rows: Sequence[Row],
        recordings: Sequence[str],
        *,
        unit: str = "%",
        left_out: Mapping[str, int] | None = None,
        notes: Sequence[str] = (),
    ) -> Table:
        """The table of samples of which each comes from one of ``recordings`` (N,)."""
        counts = {reason: count for reason, count in (left_out or {}).items() if count}
        samples = len(recordings), len(set(recordings))
        return Table(
            task, protocol, words, unit, rows, *samples, self.seed, counts, notes, self.part, self.group
        )
