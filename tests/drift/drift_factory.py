"""Drift made up for tests: the size and the kinds of a real one, the same for the same seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from mnv4_deploy.drift.limits import check, metrics
from mnv4_deploy.drift.records import DriftResult
from mnv4_deploy.images.records import Dataset, DatasetImage, SkippedImage
from mnv4_deploy.layers.records import (
    Agreement,
    Cause,
    Diagnosis,
    LayerDrift,
    LayerEvidence,
    LayersDrift,
    RangeUse,
)
from mnv4_deploy.models.records import Preprocessing
from mnv4_deploy.models.source import ZooSource
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.records import OutputDrift
from mnv4_deploy.tasks.classification.task import CLASSIFICATION
from mnv4_deploy.tasks.rows import ImageRows

HOSTILE = "</script><script>alert(1)</script><b>$x_{1}$ <!-- \u2028 =cmd() &lt;\x07 \u202e\"'"
LABELS = (
    *("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse"),
    *("ship", "truck", "<b>=cmd()</b> \u202etaobwor", "a_very_long_class_name_" * 6),
)
_STAGES = ((0, 2), (1, 2), (2, 6), (3, 8), (4, 1))


def make_dataset(count: int = 1000, folder: Path | None = None) -> Dataset:
    """``count`` images; with ``folder`` the first 30 are really there, one of them damaged."""
    rng = np.random.default_rng(3)
    root = folder or Path("/data/holdout")
    images = []
    for index in range(count):
        name = f"{LABELS[index % 10]}/{index:05d}.png"
        if index == 5:
            name = "cat/<img src=x onerror=alert(1)>.png".replace("/c", "_c")
        path = root / name
        if folder is not None and index < 30:
            path.parent.mkdir(parents=True, exist_ok=True)
            size = (160, 120) if index % 3 else (32, 32)
            base = rng.integers(0, 255, (6, 8, 3), np.uint8)
            Image.fromarray(base).resize(size, Image.Resampling.BICUBIC).save(path)
            if index == 7:
                path.write_bytes(b"not an image any more")
        images.append(DatasetImage(str(path), name, index % 10))
    return Dataset("holdout", str(root), tuple(images))


def make_images(count: int = 1000, *, labelled: bool = True) -> ImageRows:
    """Outputs of a good reference and a candidate that is slightly worse."""
    rng = np.random.default_rng(11)
    label = np.arange(count) % 10
    logits = rng.normal(0, 1.6, (count, len(LABELS)))
    logits[np.arange(count), label] += 5.0
    noisy = logits + rng.normal(0, rng.gamma(2.0, 0.35, (count, 1)), logits.shape)
    # The first 30, whose files are there, changed most.
    noisy[:30] = logits[:30] + rng.normal(0, 5, (min(count, 30), len(LABELS)))

    def log_softmax(x):
        shifted = x - x.max(axis=1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

    p, q = log_softmax(logits), log_softmax(noisy)
    norms = np.linalg.norm(logits, axis=1) * np.linalg.norm(noisy, axis=1)
    return ImageRows(
        index=np.arange(count),
        sha256=np.zeros((count, 32), np.uint8),
        columns={
            "label": np.where(labelled, label, -1).astype(np.int32),
            "reference_top": np.argsort(-logits, axis=1)[:, :5].astype(np.int32),
            "candidate_top": np.argsort(-noisy, axis=1)[:, :5].astype(np.int32),
            "signal": (logits**2).sum(axis=1, keepdims=True),
            "noise": ((logits - noisy) ** 2).sum(axis=1, keepdims=True),
            "cosine": ((logits * noisy).sum(axis=1) / norms)[:, None],
            "kl": (np.exp(p) * (p - q)).sum(axis=1),
        },
    )


def make_output(
    count: int = 1000, *, labelled: bool = True, folder: Path | None = None
) -> OutputDrift:
    rows = make_images(count, labelled=labelled)
    return CLASSIFICATION.summarise(rows, make_dataset(count, folder).images, LABELS)


def _modules() -> list[tuple[str, str]]:
    found = [("conv_stem", "CONV_2D")]
    for stage, blocks in _STAGES:
        for block in range(blocks):
            base = f"blocks.{stage}.{block}"
            found += [
                (f"{base}.dw_start", "DEPTHWISE_CONV_2D"),
                (f"{base}.pw_exp", "CONV_2D"),
                (f"{base}.dw_mid", "DEPTHWISE_CONV_2D"),
                (f"{base}.pw_proj", "CONV_2D"),
                (base, "ADD"),
            ]
            if stage == 3 and block % 2:
                found += [(f"{base}.attn", "SOFTMAX"), (f"{base}.attn", "BATCH_MATMUL")]
    return [*found, ("head", "MEAN"), ("classifier", "FULLY_CONNECTED")]


def make_layers(images: int = 32) -> LayersDrift:
    """About a hundred layers with three planted faults, the worst of them an outlier channel."""
    rng = np.random.default_rng(7)
    layers = []
    noise = 0.0
    for index, (module, kind) in enumerate(_modules()):
        own = float(10 ** (-rng.uniform(32, 48) / 10))
        if module == "blocks.1.0.dw_mid":
            own = 10**-1.15
        if module == "blocks.2.3.pw_exp":
            own = 10**-1.9
        noise = noise * 0.9 + own
        channels = int(rng.choice([32, 48, 96, 192, 480]))
        peaks = rng.gamma(4.0, 0.8, channels)
        if module == "blocks.1.0.dw_mid":
            peaks[17] = 96.5
        high = float(peaks.max())
        weighted = "CONV" in kind or kind == "FULLY_CONNECTED"
        alone = None if kind == "BATCH_MATMUL" else Agreement(-10 * np.log10(own), 1 - own / 2)
        if index == 4:
            alone = Agreement(200.0, 1.0)
        layers.append(
            LayerDrift(
                index=3 * index,  # of the operator: not every operator is a layer
                module=module,
                kind=kind,
                compute="int8" if kind != "SOFTMAX" else "float32",
                tensor=f"model/{module}/{kind}_{index}",
                reference_tensor=f"/{module}/out_{index}",
                shape=(1, 14, 14, channels),
                accumulated=Agreement(float(-10 * np.log10(noise)), 1 - noise / 2),
                isolated=alone,
                output=None
                if kind == "SOFTMAX"
                else RangeUse(
                    high / 255, -128, 0.0, high, 0.0, high * 1.02, 96.0 + rng.uniform(0, 4),
                    float(rng.uniform(0, 0.02)), 0.1,
                ),
                evidence=LayerEvidence(
                    channel_peaks=peaks,
                    weight_peaks=rng.lognormal(-2, 0.8, channels) if weighted else None,
                    weight_scales=(0.01,) * channels if weighted else (),
                    weight_sqnr_db=float(rng.uniform(36, 44)) if weighted else None,
                    bias_codes_max=int(rng.integers(1000, 2_000_000)) if weighted else None,
                    depthwise="DEPTHWISE" in kind,
                ),
            )
        )  # fmt: skip
    planted = {
        "blocks.1.0.dw_mid": Cause(
            "outlier channel",
            "Channel 17 reaches 96.5 where the median channel reaches 3.1, so the other channels "
            "share 8 of 255 steps.",
            "Equalize the depthwise chain (--equalize) or keep this layer in int16.",
        ),
        "blocks.2.3.pw_exp": Cause(
            "clipped activation",
            "0.31 % of the values lie above 4.2, the largest number the tensor can hold.",
            "Calibrate with more images or with the min-max method.",
        ),
        "blocks.3.1.attn": Cause(
            "softmax or sigmoid range",
            "The output uses 3 % of its range.",
            "Fix the scale to 1/256.",
        ),
    }
    layers = [
        replace(layer, cause=planted[layer.module])
        if layer.module in planted and layer.kind != "BATCH_MATMUL"
        else layer
        for layer in layers
    ]
    places = sorted(range(len(layers)), key=lambda at: -layers[at].damage)
    ranking = [
        Diagnosis(layers[at].module, at, cause) for at in places if (cause := layers[at].cause)
    ]
    ranking.append(
        Diagnosis(
            "input",
            None,
            Cause(
                "normalisation",
                "The candidate's input is 0.41 brighter on average than the reference's.",
                "Give the candidate's --mean and --std.",
            ),
        )
    )
    return LayersDrift(
        images=images,
        layers=tuple(layers),
        ranking=tuple(ranking),
        unmatched=("model/reshape_1", "model/concat"),
        notes=("2 layers ran fused, so they are compared at their common output.",),
    )


def make_subject(kind: str, name: str, **changes) -> ModelRef:
    made = ModelRef(
        kind=kind,
        name=name,
        path="" if kind == "torch" else f"/home/someone/models/{name}",
        source=ZooSource("hybrid-m") if kind == "torch" else None,
        inputs=()
        if kind == "torch"
        else (TensorFacts("image", (1, 96, 96, 3), "int8", (0.0186,), (-14,)),),
        outputs=() if kind == "torch" else (TensorFacts("logits", (1, len(LABELS)), "float32"),),
        preprocessing=Preprocessing(96, 96),
        preprocessing_from="model" if kind == "torch" else "manifest",
        labels=LABELS,
        num_classes=len(LABELS),
        sha256="cd" * 32,
        size_bytes=10_949_650,
        calibration_sha256=("ef" * 32,),
    )
    return replace(made, **changes)


def make_result(
    *,
    labelled: bool = True,
    layers: bool = True,
    folder: Path | None = None,
    fail_if: tuple[str, ...] = ("top1_drop > 0.5", "agreement < 50"),
) -> DriftResult:
    """A finished drift; with ``folder`` the worst images are there to be looked at."""
    output = make_output(labelled=labelled, folder=folder)
    compared = make_layers() if layers else None
    skipped = (
        SkippedImage(1000, "frog/broken.jpg", "image file is truncated"),
        SkippedImage(1001, HOSTILE, "not an image"),
    )
    limits = check(
        fail_if if labelled else ("agreement < 50",),
        CLASSIFICATION,
        metrics(CLASSIFICATION, output, compared, len(skipped)),
    )
    return DriftResult(
        task=CLASSIFICATION,
        reference=make_subject("torch", "hybrid-m"),
        candidate=make_subject("tflite", "hybrid-m-int8.tflite"),
        data="holdout",
        output=output,
        layers=compared,
        skipped=skipped,
        limits=limits,
        seconds=83.4,
        images_per_second=12.0,
        resumed_images=400,
        workers=2,
        notes=("Quantization parameters of 2 tensors are unknown.",),
    )


def output_of(result: DriftResult) -> OutputDrift:
    """The summary of a result that is a classifier's."""
    assert isinstance(result.output, OutputDrift)
    return result.output


def with_names(result: DriftResult, name: str) -> DriftResult:
    """``result`` with ``name`` wherever a file or a folder can plant one."""
    assert result.layers is not None
    cause = Cause("outlier channel", name, name)
    layers = replace(
        result.layers,
        layers=tuple(
            replace(
                layer, module=name, kind=name, compute=name, tensor=name, reference_tensor=name,
                cause=cause,
            )
            for layer in result.layers.layers
        ),
        ranking=tuple(replace(d, module=name, cause=cause) for d in result.layers.ranking),
        unmatched=(name,),
        notes=(name,),
    )  # fmt: skip
    labels = (name,) * len(LABELS)
    was = output_of(result)
    output = replace(
        was,
        worst=tuple(replace(change, name=name, path=name) for change in was.worst),
        classes=tuple(replace(change, name=name, mistaken_for=name) for change in was.classes),
    )
    tensor = TensorFacts(name, (1, name), name)
    facts = {
        "name": name,
        "labels": labels,
        "source": ZooSource(name, weights=name),
        "preprocessing_from": name,
        "inputs": (tensor,),
        "outputs": (tensor,),
    }
    return replace(
        result,
        reference=replace(result.reference, **facts),
        candidate=replace(result.candidate, path=name, **facts),
        data=name,
        output=output,
        layers=layers,
        skipped=(SkippedImage(0, name, name),),
        limits=tuple(replace(limit, text=name) for limit in result.limits),
        notes=(name,),
    )
