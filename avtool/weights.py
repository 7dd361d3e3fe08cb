"""Published weights by name: fetched, checked, converted once into the cache; and ViTs as starting points."""

from pathlib import Path

from avtool.checkpoint import check_finite, check_fit
from avtool.config.checkpoint import read_config
from avtool.convert import convert, read_published
from avtool.download import download, only_one
from avtool.errors import CheckpointError, UsageError, did_you_mean
from avtool.files import sha256_of
from avtool.model.encoder import VisionTransformer
from avtool.places import is_checkpoint
from avtool.progress import say
from avtool.published import PUBLISHED, TIMM, cached_file, pulled_folder
from avtool.registry import VIT
from avtool.timm_vit import TimmViT
from avtool.vits import one_encoder, spread_over_colours
from avtool.weight_files import read_safetensors

NONE = "none"


def pull(name: str, *, base_url: str | None = None, offline: bool = False, force: bool = False) -> Path:
    """Fetch, check and convert the published weights ``name``, once; returns the converted folder.

    What lies in the cache is used as it is, unless ``force``. A download that broke off goes on. A file put by hand at
    ``cached_file(name)`` is checked like a fetched one and left there; with ``offline`` nothing else is tried.
    ``base_url`` takes the place of the publisher's address. AvtoolError where the name is unknown, nothing can be
    fetched, or the file is not the published one.
    """
    if name not in PUBLISHED:
        raise UsageError(f"there are no published weights {name!r}", hint=did_you_mean(name, PUBLISHED))
    published, folder, file = PUBLISHED[name], pulled_folder(name), cached_file(name)
    with only_one(file, what=name):
        if is_checkpoint(folder) and not force:
            return folder
        say(f"{name}: {published.content}")
        say(f"licence: {published.licence}")
        url = published.url(base_url)
        by_hand = f"fetch it on another machine, put it at {file}, then: avtool pull {name} --offline"
        fetched = not file.is_file()
        if fetched and offline:
            raise CheckpointError(
                f"{name} is not in the cache, and --offline fetches nothing ({url})", hint=by_hand
            )
        if fetched:
            download(url, file, size=published.size, what=name, by_hand=by_hand)
        try:
            _check_sum(name, file, url)
        except CheckpointError:
            if fetched:
                file.unlink()
            raise
        convert(file, folder, origin=f"{name}, {published.licence}, {url}", drop_positions=True, force=True)
        if fetched:
            file.unlink()
        return folder


def _check_sum(name: str, file: Path, url: str) -> None:
    """CheckpointError where ``file`` is not the published one, or not the one that was fetched first."""
    size, wanted = PUBLISHED[name].size, PUBLISHED[name].sha256
    record = file.with_suffix(".sha256")
    if wanted is None and record.is_file():
        wanted = record.read_text(encoding="utf-8").strip()
    if size is not None and file.stat().st_size != size:
        raise CheckpointError(
            f"{file} has {file.stat().st_size:,} bytes, {name} has {size:,}",
            hint=f"fetch it again from {url}",
        )
    found = sha256_of(file)
    if wanted is None:
        record.write_text(found + "\n", encoding="utf-8")
        say(
            f"sha256 {found}: nobody has published it, so later downloads are held against this one ({record})"
        )
    elif found != wanted:
        raise CheckpointError(
            f"{name} from {url} has the wrong sha256: {found}, not {wanted}",
            hint="try again, or another address with --base-url; if the publisher has changed the file, do not use it",
        )


def find_starting_weights(key: str, value: str) -> Path | TimmViT | None:
    """What recipe key ``key`` = ``value`` names: pulled weights, a file or converted folder, a ViT of timm's, or None
    for ``none``.

    CheckpointError, with the ways out, where it is not there. Nothing is fetched.
    """
    if value == NONE:
        return None
    if value.startswith(TIMM):
        return TimmViT.find(key, value)
    starts = [name for name, published in PUBLISHED.items() if published.starts]
    if value in starts:
        folder, file = pulled_folder(value), cached_file(value)
        if is_checkpoint(folder):
            return folder
        if file.is_file():
            return file
        raise CheckpointError(
            f"the starting weights {key}={value} are not in the cache ({folder})",
            hint=f"(1) avtool pull {value} (licence: {PUBLISHED[value].licence}), or name your copy with {key}=PATH; "
            f"(2) start from random weights with {key}=none",
        )
    path = Path(value)
    if path.is_file() or is_checkpoint(path):
        return path
    names = ", ".join([*starts, f"{TIMM}NAME"] if key == "init.image" else starts)
    raise CheckpointError(
        f"{key}={value} is neither a file, a converted folder nor one of {names}, none",
        hint=f"(1) correct the path; (2) start from random weights with {key}=none",
    )


def load_vit(encoder: VisionTransformer, start: Path | TimmViT) -> str:
    """Start one modality's encoder from ``start``, a ViT's file (see ``avtool.vits``) or converted folder or a ViT of
    timm's; returns in words what of that was left out or changed. CheckpointError names what does not fit, or is not
    finite."""
    note = ""
    if isinstance(start, TimmViT):
        note = start.load(encoder)
    else:
        channels = encoder.patch_embed.proj.in_channels
        if not start.is_dir():
            weights, note = one_encoder(
                read_published(start),
                source=start,
                stream="image" if channels == 3 else "audio",
                drop_positions=start in map(cached_file, PUBLISHED),
            )
        elif (kind := read_config(start).kind) == VIT:
            weights = read_safetensors(start / "model.safetensors")
        else:
            raise CheckpointError(
                f"{start} holds a model of kind {kind}, not the encoder of one modality",
                hint="name weights of a plain MAE or AudioMAE ViT",
            )
        weights, spread = spread_over_colours(weights, channels)
        note = "; ".join(filter(None, (note, spread)))
        hint = "use weights of the recipe's model.dim, model.depth and model.patch_size, or change those"
        check_fit(weights, encoder, source=start, hint=hint)
        encoder.load_state_dict(weights)
    check_finite(encoder.state_dict(), source=str(start))
    return note
