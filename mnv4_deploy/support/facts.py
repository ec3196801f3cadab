"""Which files of which models work, as ``benchmarks/record_support.py`` found out. No torch.

A fact holds for what it was recorded with: the variant and the int8 recipes as they are data
here, and the versions of the tools of its format. Anything else is unknown, never "works".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from mnv4_deploy.errors import InputError
from mnv4_deploy.exporters.recipes import RECIPES
from mnv4_deploy.models import zoo
from mnv4_deploy.profiles.files.whole import replace_whole
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.profiles.records.plain import from_plain, to_plain

Precision = Literal["fp32", "fp16", "int8"]
SCHEMA_VERSION = 1
FACTS = Path(__file__).parent / "facts.json"
# What decides a file and what runs it. numpy is in every one and decides nothing.
TOOLS: Mapping[Format, tuple[str, ...]] = {
    "onnx": ("torch", "onnxscript", "onnx", "onnxsim", "onnxruntime"),
    "tflite": ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert"),
}
NOT_INSTALLED = "not installed"
# What recipes say of these they did not say when the facts were recorded. It decides no recorded
# file: in int8, or beyond these scale ratios, each would have left the delegate, and none did.
DECIDES_NO_FILE: frozenset[str | tuple[str, float, float]] = frozenset(
    {
        *("ABS", "CEIL", "COS", "EXP", "FLOOR", "LOG", "NEG", "RELU6", "RELU_N1_TO_1", "ROUND"),
        *("RSQRT", "SIN", "SQRT", "SQUARE", "DIV", "MAXIMUM", "MINIMUM", "PRELU"),
        "SQUARED_DIFFERENCE",
        ("MUL", 2.0**-16, 2.0**8),
        ("QUANTIZE", 2.0**-8, 2.0**7),
    }
)


@dataclass(frozen=True)
class Kind:
    """One way to export a model. ``target`` is what runs the file: see ``recipes.RECIPES``."""

    format: Format
    precision: Precision
    target: str


KINDS: tuple[Kind, ...] = (
    Kind("onnx", "fp32", "onnxruntime"),
    Kind("onnx", "fp16", "onnxruntime"),
    Kind("onnx", "int8", "onnxruntime"),
    Kind("tflite", "fp32", "xnnpack"),
    Kind("tflite", "fp16", "xnnpack"),
    Kind("tflite", "int8", "xnnpack"),
    Kind("tflite", "int8", "integer-only"),
)


@dataclass(frozen=True)
class FileSupport:
    """One file of a model at its native size, made from randomised weights.

    ``works`` None: unknown; ``reason`` says why for anything but True. ``operators`` and
    ``outside`` (those XNNPACK does not take) count by kind. ``max_relative_error`` is that of
    fp32 files against PyTorch, allowed was ``tolerance``; ``sqnr_db`` is the median over images
    of the other files against the fp32 file of their format, ``least_sqnr_db`` what was asked
    where that is less than usual.
    """

    format: Format
    precision: Precision
    target: str
    works: bool | None
    reason: str = ""
    operators: Mapping[str, int] = field(default_factory=dict)
    partitions: int | None = None
    outside: Mapping[str, int] = field(default_factory=dict)
    max_relative_error: float | None = None
    tolerance: float | None = None
    sqnr_db: float | None = None
    least_sqnr_db: float | None = None

    @property
    def kind(self) -> Kind:
        return Kind(self.format, self.precision, self.target)

    @property
    def whole(self) -> bool:
        """Whether nothing of it leaves the delegate; True where there is none."""
        return self.partitions in (None, 1) and not self.outside


@dataclass(frozen=True)
class ModelSupport:
    """What was recorded of one model. MACs are at its native size with 1000 classes.

    ``depends_on`` is the :func:`digest` of then, ``tools`` are versions by package.
    """

    model: str
    depends_on: str
    parameters: int
    macs: int
    tools: Mapping[str, str]
    files: tuple[FileSupport, ...]


def digest(model: str) -> str:
    """SHA-256 of the data that decides what ``model`` is and how it is quantized.

    Code has no part in it, nor where it lies: a comment would make an hour's recording void, and
    so would a folder's new name. What code changes, the tests find by exporting a model of each
    family again.
    """
    entry = zoo.entry(model)
    recipes = []
    for r in RECIPES.values():
        float_ops = sorted(r.float_ops - DECIDES_NO_FILE)
        ratios = [(kind, ratio.low, ratio.high) for kind, ratio in r.scale_ratios]
        decisive = tuple(ratio for ratio in ratios if ratio not in DECIDES_NO_FILE)
        recipes.append((r.target, float_ops, r.symmetric_products, decisive))
    data = (entry.family, entry.variant, entry.native_size, entry.preprocessing, recipes)
    return hashlib.sha256(repr(data).encode()).hexdigest()


def installed_tools() -> dict[str, str]:
    """Versions of the packages in ``TOOLS``, without local parts such as ``+cpu``."""
    versions = {}
    for tool in sorted({tool for tools in TOOLS.values() for tool in tools}):
        try:
            versions[tool] = metadata.version(tool).partition("+")[0]
        except metadata.PackageNotFoundError:
            versions[tool] = NOT_INSTALLED
    return versions


def read(path: Path = FACTS) -> dict[str, ModelSupport]:
    """The records by model; none where there is no file.

    Raises InputError for a file that is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = from_plain(tuple[ModelSupport, ...], content["models"])
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"'{path}' with the recorded facts of the models is damaged ({error}): install "
            "mnv4-deploy again, or remove the file."
        ) from error
    return {record.model: record for record in records}


def write(records: Iterable[ModelSupport], path: Path = FACTS) -> None:
    """Put ``records`` among those at ``path``, which is whole at any time.

    Records of models that the zoo no longer has go.
    """
    merged = read(path) | {record.model: record for record in records}
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "models": [to_plain(merged[name]) for name in zoo.names() if name in merged],
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    replace_whole(path, text.encode())


def current(
    model: str, record: ModelSupport | None, installed: Mapping[str, str]
) -> tuple[FileSupport, ...]:
    """The facts of all ``KINDS`` of files that hold here; the others are unknown, with a reason.

    A tool that is not installed contradicts nothing.
    """
    found = {} if record is None else {file.kind: file for file in record.files}
    files = []
    for kind in KINDS:
        reason = _stale(model, record, kind, installed)
        if not reason and kind not in found:
            reason = "this file was not recorded"
        files.append(_unknown(kind, reason) if reason else found[kind])
    return tuple(files)


def _stale(
    model: str, record: ModelSupport | None, kind: Kind, installed: Mapping[str, str]
) -> str:
    if record is None:
        return "nothing was recorded for this model"
    if record.depends_on != digest(model):
        return "the model or the int8 recipes changed after it was recorded"
    for tool in TOOLS[kind.format]:
        then, now = record.tools.get(tool, NOT_INSTALLED), installed.get(tool, NOT_INSTALLED)
        if NOT_INSTALLED != now != then:
            return f"recorded with {tool} {then}, not with the {now} that is installed"
    return ""


def _unknown(kind: Kind, reason: str) -> FileSupport:
    return FileSupport(kind.format, kind.precision, kind.target, None, reason)
