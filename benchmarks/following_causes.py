"""Do drift's first three causes win what the best three layers win that trying all finds?

    python benchmarks/following_causes.py --out DIR --images PHOTOGRAPHS

Our quantizers make a file with 200 photographs; drift ranks its layers on others. Then it is made
again with the first three in float, with these and all layers that read them, and once for each
layer of the network with that one in float: of these the three are taken that win most on drift's
own photographs, and made again together. What each wins is told of photographs that chose nothing.
PHOTOGRAPHS is a folder of square crops with ``labels.csv`` (column ``file``).

What trying found is kept below DIR, so that a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mnv4_deploy.decibels import decibels
from mnv4_deploy.drift.causes.diagnose import diagnose
from mnv4_deploy.errors import UnsupportedError
from mnv4_deploy.exporters.ranges import Range
from mnv4_deploy.exporters.recipes import recipe
from mnv4_deploy.exporters.records import FORMATS
from mnv4_deploy.exporters.rewrites.chains import rewrite
from mnv4_deploy.exporters.to_onnx.convert import export_onnx
from mnv4_deploy.exporters.to_onnx.quantize import observe_onnx, quantize_onnx
from mnv4_deploy.exporters.to_tflite import io_types
from mnv4_deploy.exporters.to_tflite.convert import export_tflite
from mnv4_deploy.exporters.to_tflite.flatbuffer import TfliteFile
from mnv4_deploy.exporters.to_tflite.quantize import observe_tflite, quantize_tflite
from mnv4_deploy.images.preprocessing import normalize
from mnv4_deploy.images.sets import ImageRef
from mnv4_deploy.layers.compare import compare_layers
from mnv4_deploy.layers.records import LayersDrift
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.weights import load_reference
from mnv4_deploy.profiles.records.graph import Format
from mnv4_deploy.sessions.image_runner import open_image_runner
from mnv4_deploy.sessions.records import ModelRef

NETWORKS = {"mobilenetv2-100": "pypi", "efficientnet-lite0": "pypi"}
COLUMNS = ("network", "file", "layers in float", "SQNR dB", "won dB", "agree %", "won")
_THREE = 3

Pixels = npt.NDArray[np.uint8]
Logits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Photographs:
    """``[N, H, W, 3]`` each: what ranges come from, what layers are chosen on, and the others."""

    calibration: Pixels
    choice: Pixels
    judgement: Pixels


def open_photographs(folder: Path, spec: Preprocessing, counts: Sequence[int]) -> Photographs:
    with (folder / "labels.csv").open(encoding="utf-8", newline="") as file:
        names = sorted(row["file"] for row in csv.DictReader(file))
    random.Random(0).shuffle(names)
    ends = np.cumsum([0, *counts])
    parts = [names[a:b] for a, b in pairwise(ends)]
    return Photographs(
        *(np.stack([ImageRef(folder / name).pixels(spec) for name in part]) for part in parts)
    )


@dataclass(frozen=True)
class Maker:
    """Makes the int8 files of one network and format in ``folder``."""

    model: str
    format: Format
    folder: Path
    spec: Preprocessing
    photographs: Photographs

    @cached_property
    def fp32(self) -> Path:
        path = self.folder / f"fp32.{self.format}"
        if not path.exists():
            size = self.spec.height, self.spec.width
            module = load_reference(self.model, NETWORKS[self.model]).module
            export = export_onnx if self.format == "onnx" else export_tflite
            export(rewrite(module, self.format, size).module, path, input_shape=(1, *size))
        return path

    @cached_property
    def ranges(self) -> dict[str, Range]:
        images = normalize(self.photographs.calibration, self.spec)
        if self.format == "onnx":
            return observe_onnx(self.fp32, (i.transpose(2, 0, 1)[None] for i in images))
        return observe_tflite(self.fp32, (i[None] for i in images))

    def int8(self, float_layers: Sequence[str], name: str = "trial") -> Path:
        path = self.folder / f"{name}.{self.format}"
        if self.format == "onnx":
            quantize_onnx(self.fp32, path, (), ranges=self.ranges, float_layers=float_layers)
            return path
        target = recipe("xnnpack")
        quantize_tflite(
            self.fp32, path, (), recipe=target, ranges=self.ranges, float_layers=float_layers
        )
        file = TfliteFile(path)
        io_types.set_input(file, "float", target.target)
        io_types.set_outputs(file, "float", target.target)
        file.write(path)
        return path

    def subject(self, path: Path) -> ModelRef:
        size = path.stat().st_size
        return ModelRef(self.format, path.name, str(path), self.spec, "options", "", size)

    def logits(self, path: Path, pixels: Pixels) -> Logits:
        (values,) = open_image_runner(path, self.spec).outputs(pixels).values()
        return values.astype(np.float64)

    def layers(self) -> LayersDrift:
        pair = self.subject(self.fp32), self.subject(self.int8((), "int8"))
        return diagnose(compare_layers(*pair, self.photographs.choice, effects=True), None)

    def best(self, modules: Sequence[str]) -> list[str]:
        """The three that win most on their own, of ``modules``."""
        store = self.folder / "tried.json"
        tried: dict[str, float] = json.loads(store.read_text()) if store.exists() else {}
        wanted = self.logits(self.fp32, self.photographs.choice)
        for module in modules:
            if module in tried:
                continue
            progress(f"{self.model} {self.format}: {module}")
            try:
                found = self.logits(self.int8([module]), self.photographs.choice)
            except UnsupportedError:  # an operator that the quantizer does not know
                continue
            tried[module] = sqnr(wanted, found)
            store.write_text(json.dumps(tried))
        return sorted(tried, key=lambda module: -tried[module])[:_THREE]


def sqnr(wanted: Logits, given: Logits) -> float:
    return decibels(float(np.square(wanted).sum()), float(np.square(given - wanted).sum()))


def causes(layers: LayersDrift) -> tuple[list[str], list[str]]:
    """Modules of drift's first three layers, and these with what reads them."""
    chosen = [layers.layers[d.layer] for d in layers.ranking if d.layer is not None]
    chosen = [layer for layer in chosen if layer.module][:_THREE]
    indices = {layer.index for layer in chosen}
    readers = [x for x in layers.layers if x.module and indices.intersection(x.inputs)]
    first = [layer.module for layer in chosen]
    return first, list(dict.fromkeys([*first, *(layer.module for layer in readers)]))


def rows(maker: Maker) -> list[list[str]]:
    layers = maker.layers()
    effects = layers.effects
    assert effects is not None
    if effects.tried is not None:
        told = effects.tried.together[-1].sqnr_db - effects.tried.candidate.sqnr_db
        progress(f"{maker.model} {maker.format}: drift says {told:.1f} dB for its first three")
    first, with_readers = causes(layers)
    modules = [layer.module for layer in layers.layers if layer.module]
    best = maker.best(list(dict.fromkeys(modules)))
    pixels = maker.photographs.judgement
    wanted = maker.logits(maker.fp32, pixels)
    table: list[list[str]] = []
    base: tuple[float, float] | None = None
    for title, chosen in (
        ("none", []),
        (f"drift's first three: {', '.join(first)}", first),
        (f"these and what reads them ({len(with_readers)})", with_readers),
        (f"best three of {len(set(modules))} tried: {', '.join(best)}", best),
    ):
        found = maker.logits(maker.int8(chosen), pixels)
        figures = sqnr(wanted, found), 100 * float((found.argmax(1) == wanted.argmax(1)).mean())
        base = base or figures
        won = [f"{now - before:+.1f}" for now, before in zip(figures, base, strict=True)]
        decibels_now, agreement = (f"{figure:.1f}" for figure in figures)
        table.append([maker.model, maker.format, title, decibels_now, won[0], agreement, won[1]])
    return table


def markdown(table: list[list[str]]) -> str:
    lines = [[*COLUMNS], ["---"] * len(COLUMNS), *table]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for all that is made")
    parser.add_argument("--images", type=Path, required=True, help="photographs")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--formats", default=",".join(FORMATS), help="comma-separated")
    parser.add_argument("--calib-images", type=int, default=200)
    parser.add_argument("--choice-images", type=int, default=64, help="for drift and for trying")
    parser.add_argument("--eval-images", type=int, default=256, help="that tell what was won")
    options = parser.parse_args()
    counts = options.calib_images, options.choice_images, options.eval_images
    table: list[list[str]] = []
    for name in options.networks.split(","):
        spec = replace(load_reference(name, NETWORKS[name]).preprocessing, crop_pct=1.0)
        photographs = open_photographs(options.images, spec, counts)
        for format_ in options.formats.split(","):
            folder = options.out / name / format_
            folder.mkdir(parents=True, exist_ok=True)
            table += rows(Maker(name, format_, folder, spec, photographs))
            print(markdown(table[-4:]), flush=True)
    (options.out / "results.md").write_text(markdown(table), encoding="utf-8")


if __name__ == "__main__":
    main()
