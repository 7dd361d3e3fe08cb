"""Views of several windows of a clip, spread evenly over it."""

from __future__ import annotations

from typing import Any

import numpy as np

from avtool.data.dataset import PreparedDataset
from avtool.data.views import Size, centre_crop, cropped, fit_window


class WindowViews:
    """``windows`` views of every clip, from its first window of sound to its last, each with the frame nearest to the
    window's middle, cropped as evaluation views are. A single one is the clip's middle.

    ``sample(number)`` is window ``number % windows`` of clip ``number // windows``: the keys of ``EvaluationViews``.
    """

    def __init__(
        self, dataset: PreparedDataset, *, image_size: Size, window_samples: int, windows: int
    ) -> None:
        self.dataset, self.windows = dataset, windows
        self.image_size, self.window_samples = image_size, window_samples

    def numbers(self, clips: np.ndarray) -> np.ndarray:
        """The samples of ``clips`` (N,), clip by clip: int64 (N * windows,)."""
        return (clips[:, None] * self.windows + np.arange(self.windows)).reshape(-1)

    def sample(self, number: int) -> dict[str, Any]:
        index, window = divmod(number, self.windows)
        dataset, record = self.dataset, self.dataset.record(index)
        room = max(0, record.samples - self.window_samples)
        share = window / (self.windows - 1) if self.windows > 1 else 0.5
        start = round(share * room)
        middle = (start + self.window_samples / 2) / dataset.sample_rate
        frame = int(np.argmin(np.abs(record.times - middle)))
        crop = centre_crop(record.width, record.height)
        return {
            "image": cropped(dataset, index, frame, crop, self.image_size),
            "waveform": fit_window(dataset.waveform(index, start, self.window_samples), self.window_samples),
            "index": index,
            "label": record.label_ids[0] if record.label_ids else -1,
        }
