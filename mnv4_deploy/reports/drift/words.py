"""What a drift means, in sentences, and its figures as people read them."""

from __future__ import annotations

import math

from mnv4_deploy.decibels import CAP_DB
from mnv4_deploy.drift.records import DeviceAgreement, DriftResult
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.classification.records import Flips, OutputDrift, Proportion
from mnv4_deploy.text import plural

SIGNIFICANT = 0.05
_MEGA = 1e6


def decibels_text(sqnr_db: float | None) -> str:
    if sqnr_db is None or math.isnan(sqnr_db):
        return "–"
    return "identical" if sqnr_db >= CAP_DB else f"{sqnr_db:.1f}"


def in_db(sqnr_db: float) -> str:
    """With its unit; what does not differ has none."""
    shown = decibels_text(sqnr_db)
    return shown if sqnr_db >= CAP_DB else f"{shown} dB"


def with_interval(share: Proportion) -> str:
    return f"{share.percent:.2f} % ({share.low_percent:.2f} to {share.high_percent:.2f})"


def number_text(value: float | None, digits: int = 3) -> str:
    """Significant digits, with an exponent only where the zeros would be many."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) < 1e-12:
        return "0"
    if float(value).is_integer() and abs(value) < 1e6:
        return f"{value:,.0f}"
    if abs(value) >= 1e6 or 0 < abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{float(f'{value:.{digits}g}'):,.10g}"


def p_text(p_value: float) -> str:
    return "p < 0.0001" if p_value < 1e-4 else f"p = {p_value:.2g}"


def drop_sentence(output: OutputDrift) -> str:
    """What top-1 lost; "" without labels."""
    drop, low, high = output.top1_drop, output.top1_drop_low, output.top1_drop_high
    if drop is None or low is None or high is None:
        return ""
    if drop == 0:
        what = "The candidate is right as often as the reference"
    else:
        word = "loses" if drop > 0 else "gains"
        what = f"The candidate {word} {abs(drop):.2f} points of top-1"
    return f"{what} (95 % interval of the loss: {low:.2f} to {high:.2f} points)."


def flips_sentence(flips: Flips) -> str:
    """Flips and McNemar's test in plain words."""
    counts = (
        f"{plural(flips.lost, 'image')} the reference had right went wrong, "
        f"{flips.gained} it had wrong came right"
    )
    if flips.lost + flips.gained == 0:
        return "No answer transposed from right to wrong or from wrong to right."
    test = f"McNemar's exact test, {p_text(flips.p_value)}"
    if flips.p_value >= SIGNIFICANT:
        return f"{counts}: so uneven a split could be chance ({test})."
    worse = "worse" if flips.lost > flips.gained else "better"
    return f"{counts}: the candidate is significantly {worse}, this is hardly chance ({test})."


def verdict(flips: Flips) -> str:
    """The same in one or two words."""
    return "significant" if flips.p_value < SIGNIFICANT else "could be chance"


def outputs_sentence(output: OutputDrift) -> str:
    return (
        f"Outputs: SQNR {in_db(output.median_sqnr_db)} in the median image and "
        f"{in_db(output.sqnr_db)} over all together, cosine "
        f"{number_text(output.cosine, 5)}, KL divergence {number_text(output.kl)} nats."
    )


def measured_sentence(result: DriftResult) -> str:
    """How it was measured."""
    output = result.output
    if output.labelled == output.images:
        labels = "all labelled"
    else:
        labels = f"{output.labelled:,} of them labelled" if output.labelled else "without labels"
    said = (
        f"Both ran on the same {output.images:,} images of {result.data} ({labels}), each with "
        "its own runtime."
    )
    if result.device is not None:
        said += f" Model files ran on {result.device.title}, PyTorch and layers on this machine."
    if result.layers is not None:
        said += f" Layers were compared on {plural(result.layers.images, 'image')} of them."
    if result.skipped:
        said += f" {plural(len(result.skipped), 'file')} could not be used."
    return said


def device_text(device: DeviceFacts, runtimes: tuple[str, ...]) -> str:
    """System, processor and runtimes of a device; its title stands by itself."""
    emulated = f", emulated by {device.emulator}" if device.emulator else ""
    return ", ".join((device.system, f"{device.architecture} {device.cpu}{emulated}", *runtimes))


def parity_sentences(result: DriftResult) -> list[str]:
    """Whether the device computes what this machine does, on which the layers were compared."""
    if result.device is None or not result.parity:
        return []
    title = result.device.title
    if not any(agreement.differing for agreement in result.parity):
        roles = " and ".join(agreement.role for agreement in result.parity)
        return [
            f"On {plural(result.parity[0].images, 'image')} the outputs of the {roles} on {title} "
            "are those of this machine, bit for bit: the figures of the layers hold there too."
        ]
    return [_parity_sentence(agreement, title) for agreement in result.parity]


def _parity_sentence(agreement: DeviceAgreement, title: str) -> str:
    role, images = agreement.role, plural(agreement.images, "image")
    if not agreement.differing:
        return f"On {images} the {role} gives the same bits on {title} as on this machine."
    if agreement.max_codes is None:
        error = number_text(agreement.max_error)
    else:
        error = plural(agreement.max_codes, "quantization step")
    said = (
        f"On {images} {agreement.differing:,} of {agreement.elements:,} outputs of the {role} on "
        f"{title} are not those of this machine (by {error} at most, SQNR "
        f"{in_db(agreement.sqnr_db)})"
    )
    if agreement.first_layer:
        said += f", from layer {agreement.first_layer} on"
    why = f" {agreement.explanation}" if agreement.explanation else ""
    return f"{said}: the figures of the layers are those of this machine.{why}"


def subject_sentence(subject: ModelRef) -> str:
    """What a subject is: its kind, size and preprocessing."""
    kinds = {"torch": "PyTorch", "onnx": "ONNX", "tflite": "TFLite"}
    spec = subject.preprocessing
    return (
        f"{kinds[subject.kind]}, {subject.size_bytes / _MEGA:.2f} MB, input "
        f"{spec.height}x{spec.width}, {subject.num_classes} classes"
    )
