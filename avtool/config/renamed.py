"""Keys and values of recipes that have other names now: read in a run's own recipe, and errors elsewhere."""

from typing import Any

Key = tuple[str, ...]
KEYS: dict[Key, str] = {
    ("classify", "blank"): "modality_dropout",
    ("classify", "smoothing"): "label_smoothing",
    ("classify", "odds_bias"): "prior_bias",
    ("localize", "way"): "encoding",
    ("localize", "score"): "pooling",
    ("optim", "pretrained_ramp"): "backbone_warmup",
}
VALUES: dict[Key, dict[str, str]] = {
    ("localize", "encoding"): {"two-pass": "unimodal"},
    ("localize", "pooling"): {"soft": "logsumexp"},
}


def current_key(key: Key) -> Key | None:
    """What ``key`` is called now; None where its name is no old one."""
    return (*key[:-1], KEYS[key]) if key in KEYS else None


def current_value(key: Key, value: Any) -> Any:
    """What ``value`` of ``key`` is called now."""
    return VALUES.get(key, {}).get(value, value) if isinstance(value, str) else value


def rename(values: dict[str, Any]) -> None:
    """Give old keys and values of a recipe their new names, in place."""
    for (section, old), new in KEYS.items():
        if isinstance(inside := values.get(section), dict) and old in inside:
            inside[new] = current_value((section, new), inside.pop(old))
