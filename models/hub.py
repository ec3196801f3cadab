"""timm's published checkpoints: the table of tags, and their download from the Hugging Face hub.

``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and ``HF_HUB_CACHE`` are read at each call (huggingface_hub
itself reads them once, when it is imported).
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mnv4_deploy.errors import WeightsError, missing_library
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.models import zoo
from mnv4_deploy.models.records import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

_TABLE = Path(__file__).parent / "timm_checkpoints.toml"
_FILE = "model.safetensors"
_TIMEOUT_S = 10.0
_ALTERNATIVES = "use bundled weights (hybrid-m), a checkpoint file or --weights random"


@dataclass(frozen=True)
class TimmCheckpoint:
    """One published checkpoint. Sizes are (height, width) in pixels."""

    model: str
    tag: str
    hub_id: str
    num_classes: int
    input_size: tuple[int, int]
    crop_pct: float
    test_size: tuple[int, int] | None = None
    test_crop_pct: float | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: Interpolation = "bicubic"

    def preprocessing(self, size: tuple[int, int] | None = None) -> Preprocessing:
        """timm's evaluation at ``size`` (default: the training resolution, ``input_size``).

        At exactly ``test_size`` the crop is the one timm tests that size with.
        """
        height, width = size or self.input_size
        at_test_size = size == self.test_size and self.test_crop_pct is not None
        return Preprocessing(
            height=height,
            width=width,
            mean=self.mean,
            std=self.std,
            crop_pct=self.test_crop_pct if at_test_size and self.test_crop_pct else self.crop_pct,
            interpolation=self.interpolation,
        )


@dataclass(frozen=True)
class Download:
    """A file from the hub; ``revision`` is the repository's commit."""

    path: Path
    revision: str
    sha256: str


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(_TABLE.read_text(encoding="utf-8"))


@cache
def checkpoints(model: str) -> tuple[TimmCheckpoint, ...]:
    """The published checkpoints of a model, its default first; empty if there are none."""
    found = [_from_row(row) for row in _table()["checkpoint"] if row["model"] == model]
    default = _table()["default_tag"].get(model)
    return tuple(sorted(found, key=lambda checkpoint: checkpoint.tag != default))


def cache_folder() -> Path:
    """Where the hub's library keeps what it has downloaded, for all programs."""
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("HF_HOME") or f"{base}/huggingface").expanduser() / "hub"


def cached_repositories() -> dict[str, Path]:
    """The folders there of checkpoints in our table, by their ids on the hub."""
    folder = cache_folder()
    ids = sorted({row["hub_id"] for row in _table()["checkpoint"]})
    paths = {hub_id: folder / f"models--{hub_id.replace('/', '--')}" for hub_id in ids}
    return {hub_id: path for hub_id, path in paths.items() if path.is_dir()}


def _from_row(row: dict[str, Any]) -> TimmCheckpoint:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    return TimmCheckpoint(**fields)


def find(model: str, tag: str = "") -> TimmCheckpoint:
    """The checkpoint of a tag (``e500_r256_in1k``, or timm's full name with it).

    Raises:
        WeightsError: no such tag, a tag of another architecture, or an untrained model.
    """
    published = checkpoints(model)
    if not published:
        raise WeightsError(
            f"timm publishes no weights for {model}; give a checkpoint file, or --weights random."
        )
    if not tag:
        return published[0]
    timm_name = zoo.entry(model).timm_name
    name, dot, short = tag.removeprefix("timm/").rpartition(".")
    if not dot or name in (timm_name, timm_name.removeprefix("mobilenetv4_")):
        for checkpoint in published:
            if checkpoint.tag == short:
                return checkpoint
    choices = f"{model} has {', '.join(checkpoint.tag for checkpoint in published)}"
    for architecture, tags in _table()["other_architectures"].items():
        if short in tags and (not dot or name in architecture):
            raise WeightsError(
                f"The tag '{tag}' belongs to {architecture}, an architecture with anti-aliased "
                f"downsampling that is not supported; {choices}."
            )
    raise WeightsError(f"timm has no checkpoint '{tag}' of {model}; {choices}.")


def download(hub_id: str) -> Download:
    """Fetch ``model.safetensors`` of a repository, or find it in the hub's local cache.

    An unreachable hub is given up after one attempt (about 10 s at worst), unless the file is
    already in the cache.

    Raises:
        WeightsError: huggingface-hub is not installed, offline without a cached copy, hub
            unreachable, repository or file missing, or a disk that cannot take it.
    """
    try:
        import huggingface_hub as hf
        from huggingface_hub import errors as hf_errors
    except ImportError as error:
        raise missing_library(
            "--weights timm needs huggingface-hub, which is not installed", "export"
        ) from error
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or None
    host = endpoint or "https://huggingface.co"
    cache_dir = os.environ.get("HF_HUB_CACHE") or None
    cached = hf.try_to_load_from_cache(hub_id, _FILE, cache_dir=cache_dir)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    if not offline:
        # hf_hub_download retries an unreachable hub for minutes; asking once first does not.
        try:
            url = hf.hf_hub_url(hub_id, _FILE, endpoint=endpoint)
            hf.get_hf_file_metadata(url, timeout=_TIMEOUT_S, endpoint=endpoint)
        except (hf_errors.RepositoryNotFoundError, hf_errors.EntryNotFoundError) as error:
            raise WeightsError(
                f"{host} has no file {_FILE} in {hub_id}; check HF_ENDPOINT, or {_ALTERNATIVES}."
            ) from error
        except Exception as error:  # the HTTP library's own classes change between versions
            if not isinstance(cached, str):
                raise WeightsError(
                    f"{host} did not deliver {hub_id} ({_reason(error)}); check the network and "
                    f"HF_ENDPOINT, or {_ALTERNATIVES}."
                ) from error
            offline = True
    if offline and not isinstance(cached, str):
        raise WeightsError(
            f"{hub_id} is not in the local cache and HF_HUB_OFFLINE is set; set HF_HUB_OFFLINE=0 "
            f"to download it, or {_ALTERNATIVES}."
        )
    try:
        path = Path(
            hf.hf_hub_download(
                hub_id,
                _FILE,
                endpoint=endpoint,
                cache_dir=cache_dir,
                local_files_only=offline,
                etag_timeout=_TIMEOUT_S,
            )
        )
        # The cache's layout is <repository>/snapshots/<commit>/<file>.
        return Download(path, revision=path.parent.name, sha256=file_sha256(path))
    except Exception as error:
        raise WeightsError(
            f"Downloading {hub_id} from {host} failed ({_reason(error)}); try again, or "
            f"{_ALTERNATIVES}."
        ) from error


def _reason(error: Exception) -> str:
    """The first line of what a library says, without its trailing full stop."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
