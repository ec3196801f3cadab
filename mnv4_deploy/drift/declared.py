"""What a model file, or the manifest beside it, says about images, labels and calibration.

All of it is untrusted text: what does not have the right form counts as not said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mnv4_deploy.images.options import MIN_CROP_PCT
from mnv4_deploy.json_text import load_json
from mnv4_deploy.models.records import Interpolation, Preprocessing
from mnv4_deploy.outputs import MANIFEST
from mnv4_deploy.profiles.files.regular import read_regular
from mnv4_deploy.profiles.records.files import FileFacts

OWN_METADATA = "mnv4_deploy"
_MAX_MANIFEST_BYTES = 64 << 20
_FLOAT_PRECISIONS = ("float32", "float16")
_SHA256_DIGITS = 64
_MAX_SIDE = 1 << 13
_LARGE = 1e6


@dataclass(frozen=True)
class DeclaredMetadata:
    """``preprocessing_from`` is "manifest" or "file", "" where there is no preprocessing."""

    preprocessing: Preprocessing | None = None
    preprocessing_from: str = ""
    labels: tuple[str, ...] = ()
    calibration_sha256: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def read_declared(
    facts: FileFacts, num_classes: int, size: tuple[int, int] | None
) -> DeclaredMetadata:
    """What the manifest says if it is of this very file, and otherwise the file itself.

    ``size`` (height, width) is the file's input, None where it is free: then what is said
    counts. Labels that are not ``num_classes`` count as not said.
    """
    path = Path(facts.path)
    entry, manifest, notes = manifest_of(path, facts.sha256)
    own = _own_metadata(facts)
    calibrated = entry.get("precision", "") not in _FLOAT_PRECISIONS
    calibration = manifest.get("calibration") if calibrated else None
    preprocessing = None
    preprocessing_from = ""
    for source, document in (("manifest", manifest), ("file", own)):
        preprocessing = _preprocessing(document.get("preprocessing"), size)
        if preprocessing is not None:
            preprocessing_from = source
            break
    if preprocessing is None and size and facts.format == "tflite":
        preprocessing = _from_tflite_metadata(facts, size)
        preprocessing_from = "file" if preprocessing else ""
    candidates = [manifest.get("labels"), own.get("labels"), *_label_files(facts)]
    found = (_labels(value, num_classes) for value in candidates)
    return DeclaredMetadata(
        preprocessing=preprocessing,
        preprocessing_from=preprocessing_from,
        labels=next((labels for labels in found if labels), ()),
        calibration_sha256=_hashes(calibration),
        notes=notes,
    )


def manifest_of(path: Path, sha256: str) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The file's entry in the manifest beside it and the manifest; both empty if not its own."""
    manifest = path.parent / MANIFEST
    ignored = f"{MANIFEST} beside {path.name} was not used: "
    try:
        document = load_json(read_regular(manifest, max_bytes=_MAX_MANIFEST_BYTES))
    except FileNotFoundError:
        return {}, {}, ()
    except (OSError, ValueError, RecursionError):
        return {}, {}, (f"{ignored}it is no readable JSON.",)
    if not isinstance(document, dict):
        return {}, {}, ()
    files = document.get("files")
    for entry in files if isinstance(files, list) else ():
        if isinstance(entry, dict) and entry.get("file") == path.name:
            if entry.get("sha256") == sha256:
                return entry, document, ()
            return {}, {}, (f"{ignored}it lists another version of this file.",)
    return {}, {}, ()


def _own_metadata(facts: FileFacts) -> dict[str, Any]:
    if facts.format == "tflite":
        document = _json(facts.metadata.get(OWN_METADATA, ""))
        return document if isinstance(document, dict) else {}
    return {key: _json(facts.metadata.get(key, "")) for key in ("preprocessing", "labels")}


def _json(text: str) -> Any:
    try:
        return load_json(text)
    except (ValueError, RecursionError):
        return None


def _preprocessing(document: object, size: tuple[int, int] | None) -> Preprocessing | None:
    """A JSON document as preprocessing; None where any of it is missing or out of range."""
    if not isinstance(document, Mapping):
        return None
    height, width = size or (_side(document.get("height")), _side(document.get("width")))
    mean, std = (_colours(document.get(key)) for key in ("mean", "std"))
    crop_pct = _number(document.get("crop_pct"))
    interpolation = next(
        (known for known in get_args(Interpolation) if known == document.get("interpolation")),
        None,
    )
    if None in (height, width, mean, std, crop_pct, interpolation):
        return None
    assert height and width and mean and std and crop_pct is not None and interpolation
    if min(std) <= 0 or not MIN_CROP_PCT <= crop_pct <= 1:
        return None
    return Preprocessing(height, width, mean, std, crop_pct, interpolation)


def _side(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value <= _MAX_SIDE else None


def _colours(values: object) -> tuple[float, float, float] | None:
    numbers = [_number(value) for value in values] if isinstance(values, list) else []
    match numbers:
        case [float(red), float(green), float(blue)]:
            return red, green, blue
    return None


def _number(value: object) -> float | None:
    # JSON knows NaN and Infinity here, and integers of any length.
    if isinstance(value, int | float) and abs(value) < _LARGE:
        return float(value)
    return None


def _from_tflite_metadata(facts: FileFacts, size: tuple[int, int]) -> Preprocessing | None:
    """Mean and std of TFLite Metadata; it says nothing of cropping and interpolation."""
    from mnv4_deploy.drift.tflite_normalization import METADATA_NAME, read_normalization
    from mnv4_deploy.profiles.isolated import run_isolated

    if METADATA_NAME.decode() not in facts.metadata:
        return None
    found = run_isolated(read_normalization, facts.path, subject=facts.path)
    if found is None:
        return None
    mean, std = ([value / 255 for value in values] for values in found)
    source = facts.inputs[0]
    if source.dtype == "uint8" and source.scale and not any(mean):
        # "No normalisation" of a quantized input: pixels go in as they are, and its scale is it.
        mean, std = [source.zero_point[0] / 255], [1 / (255 * source.scale[0])]
    document = {
        "mean": mean * 3 if len(mean) == 1 else mean,
        "std": std * 3 if len(std) == 1 else std,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
    }
    return _preprocessing(document, size)


def _label_files(facts: FileFacts) -> list[list[str]]:
    """Lines of the label files that TFLite Metadata packs behind a model."""
    return [
        [line.strip() for line in text.splitlines() if line.strip()]
        for name, text in facts.metadata.items()
        if facts.format == "tflite" and name.endswith(".txt")
    ]


def _labels(values: object, num_classes: int) -> tuple[str, ...]:
    if not isinstance(values, list) or len(values) != num_classes:
        return ()
    return tuple(values) if all(isinstance(value, str) for value in values) else ()


def _hashes(calibration: object) -> tuple[str, ...]:
    values = calibration.get("image_sha256") if isinstance(calibration, Mapping) else None
    if not isinstance(values, list):
        return ()
    return tuple(v for v in values if isinstance(v, str) and len(v) == _SHA256_DIGITS)
