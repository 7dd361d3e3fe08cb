"""Cluttered backgrounds that say nothing about the objects: hills, a room, soft lights, shards, a quilt."""

from collections.abc import Callable

import cv2
import numpy as np

from avtool.data.synth.objects import PALETTE


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A picture to put objects on: float32 (size, size, 3), RGB in 0..1."""
    tones = PALETTE[rng.permutation(len(PALETTE))[:4]]
    grey = tones.mean(1, keepdims=True)
    tones = grey + (tones - grey) * rng.uniform(0.5, 0.9)  # muted
    tones = tones + (rng.uniform(0.62, 0.95) - tones) * rng.uniform(0.4, 0.6)  # of low contrast
    board = STYLES[int(rng.integers(len(STYLES)))](rng, 2 * size, tones.astype(np.float32))
    _clutter(board, rng, tones)
    board = cv2.resize(board, (size, size), interpolation=cv2.INTER_AREA)
    return np.clip(board * _light(rng, size) + _grain(rng, size), 0, 1)


def _ramp(size: int, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    part = np.linspace(0, 1, size, dtype=np.float32)[:, None, None]
    return np.ascontiguousarray(
        np.broadcast_to(top * (1 - part) + bottom * part, (size, size, 3)), np.float32
    )


def _tuple(colour: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in colour)


def _hills(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0] * 1.05, tones[0] * 0.5 + 0.5)
    sun = rng.uniform(0.1, 0.9, 2) * (size, 0.45 * size)
    cv2.circle(
        board, [int(v) for v in sun], int(size * rng.uniform(0.05, 0.1)), (1.0, 0.97, 0.85), -1, cv2.LINE_AA
    )
    x = np.arange(0, size + 8, 8)
    for j, level in enumerate(np.linspace(rng.uniform(0.3, 0.5), 0.85, 4)):
        waves = sum(np.sin(x / size * rng.uniform(3, 14) + rng.uniform(0, 6)) / n for n in (1, 2, 3))
        y = size * (level + 0.05 * waves)
        shape = np.concatenate([np.stack([x, y], 1), [(size, size), (0, size)]]).astype(np.int32)
        tone = tones[1 + j % 3] * (1.06 - 0.1 * j)
        cv2.fillPoly(board, [shape], _tuple(tone), cv2.LINE_AA)
        for tree in rng.integers(0, len(x), 5):
            foot, high = (int(x[tree]), int(y[tree])), int(size * rng.uniform(0.02, 0.05))
            cv2.ellipse(
                board,
                (foot[0], foot[1] - high // 2),
                (max(2, high // 3), high),
                0,
                0,
                360,
                _tuple(tone * 0.9),
                -1,
                cv2.LINE_AA,
            )
    return board


def _room(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0] * 1.04, tones[0] * 0.94)
    floor, step = int(size * rng.uniform(0.58, 0.78)), int(size * rng.uniform(0.06, 0.12))
    for x in range(int(rng.integers(step)), size, step):
        if tones[0, 0] > tones[0, 1]:
            cv2.rectangle(board, (x, 0), (x + step // 2, floor), _tuple(tones[0] * 0.96), -1)
        else:
            for y in range((x // step) % 2 * step // 2, floor, step):
                cv2.circle(board, (x, y), step // 6, _tuple(tones[0] * 0.92), -1, cv2.LINE_AA)
    for _ in range(3):
        x, y = rng.uniform(0, 0.8, 2) * (size, floor)
        w, h = rng.uniform(0.1, 0.24, 2) * size
        corners = (int(x), int(y)), (int(x + w), int(y + h))
        cv2.rectangle(board, *corners, _tuple(tones[3] * 0.7), -1)
        cv2.rectangle(
            board,
            (corners[0][0] + 6, corners[0][1] + 6),
            (corners[1][0] - 6, corners[1][1] - 6),
            _tuple(tones[2] * 1.05),
            -1,
        )
    board[floor:] = _ramp(size, tones[1] * 0.8, tones[1] * 1.05)[: size - floor]
    for x in np.linspace(-0.8, 1.8, 14):
        away = int(size * (0.5 + (x - 0.5) * 0.55))
        cv2.line(board, (away, floor), (int(size * x), size), _tuple(tones[1] * 0.72), 2, cv2.LINE_AA)
    cv2.rectangle(board, (0, floor - 8), (size, floor), _tuple(tones[0] * 0.6 + 0.35), -1)
    return board


def _lights(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0] * 0.85, tones[1])
    for _ in range(34):
        layer, radius = board.copy(), int(size * rng.uniform(0.02, 0.11))
        x, y = (int(v) for v in rng.uniform(0, size, 2))
        cv2.circle(
            layer,
            (x, y),
            radius,
            _tuple(np.clip(tones[rng.integers(4)] * rng.uniform(1, 1.3), 0, 1)),
            -1,
            cv2.LINE_AA,
        )
        near = np.s_[max(0, y - radius - 2) : y + radius + 3, max(0, x - radius - 2) : x + radius + 3]
        board[near] += (layer[near] - board[near]) * rng.uniform(0.25, 0.6)
    return board


def _shards(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0], tones[1])
    count = int(rng.integers(4, 7))
    grid = np.stack(np.meshgrid(*[np.linspace(-0.1, 1.1, count + 1)] * 2), -1) + rng.uniform(
        -0.07, 0.07, (count + 1, count + 1, 2)
    )
    grid = (grid * size).astype(np.int32)
    for row in range(count):
        for column in range(count):
            a, b, c, d = (
                grid[row, column],
                grid[row, column + 1],
                grid[row + 1, column + 1],
                grid[row + 1, column],
            )
            for corners in ((a, b, c), (a, c, d)):
                tone = tones[rng.integers(4)] * rng.uniform(0.88, 1.08)
                cv2.fillPoly(board, [np.stack(corners)], _tuple(np.clip(tone, 0, 1)), cv2.LINE_AA)
    return board


def _quilt(rng: np.random.Generator, size: int, tones: np.ndarray) -> np.ndarray:
    board = _ramp(size, tones[0], tones[0])
    turn, pitch = rng.uniform(0, np.pi), size * rng.uniform(0.08, 0.2)
    middle, along = np.array((size / 2, size / 2)), np.array((np.cos(turn), np.sin(turn)))
    across = np.array((-along[1], along[0]))
    for j in range(-14, 15):
        wave = np.linspace(-1, 1, 40)[:, None]
        edge = middle + along * wave * size + across * (j * pitch + 0.3 * pitch * np.sin(wave * 9))
        thick = max(1, int(pitch * (0.5 if j % 2 else 0.18)))
        cv2.polylines(board, [edge.astype(np.int32)], False, _tuple(tones[1 + j % 3]), thick, cv2.LINE_AA)
    return board


STYLES: tuple[Callable[[np.random.Generator, int, np.ndarray], np.ndarray], ...] = (
    _hills,
    _room,
    _lights,
    _shards,
    _quilt,
)


def _clutter(board: np.ndarray, rng: np.random.Generator, tones: np.ndarray) -> None:
    """Pebbles, leaves and chips in the background's own tones."""
    size = len(board)
    for _ in range(int(rng.integers(8, 26))):
        centre, long = rng.uniform(0, size, 2).astype(int), size * rng.uniform(0.012, 0.045)
        tone = _tuple(np.clip(tones[rng.integers(4)] * rng.uniform(0.72, 1.2), 0, 1))
        shadow = _tuple(board[centre[1], centre[0]] * 0.8)
        turn, corners = rng.uniform(0, 360), int(rng.integers(3, 6))
        if rng.random() < 0.5:
            axes = (int(long) + 1, int(long * rng.uniform(0.4, 1)) + 1)
            for move, colour in ((3, shadow), (0, tone)):
                cv2.ellipse(
                    board,
                    (int(centre[0]) + move, int(centre[1]) + move),
                    axes,
                    turn,
                    0,
                    360,
                    colour,
                    -1,
                    cv2.LINE_AA,
                )
        else:
            angle = np.deg2rad(turn) + np.arange(corners) * 2 * np.pi / corners
            shape = centre + 1.2 * long * np.stack([np.cos(angle), np.sin(angle)], 1)
            for move, colour in ((3, shadow), (0, tone)):
                cv2.fillPoly(board, [(shape + move).astype(np.int32)], colour, cv2.LINE_AA)


def _light(rng: np.random.Generator, size: int) -> np.ndarray:
    """A pool of light with darker corners: (size, size, 1)."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    cx, cy = rng.uniform(0.3, 0.7, 2)
    return (1.06 - 0.24 * ((x - cx) ** 2 + (y - cy) ** 2))[..., None]


def _grain(rng: np.random.Generator, size: int) -> np.ndarray:
    """Soft blotches of texture: (size, size, 1)."""
    coarse = [
        cv2.resize(rng.normal(size=(n, n)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        for n in (6, 20, 60)
    ]
    return (0.008 * np.sum(coarse, axis=0))[..., None]
