"""What any drift means, in sentences; what depends on the task comes from the task."""

from __future__ import annotations

from collections.abc import Sequence

from mnv4_deploy.drift.records import DeviceAgreement, DriftResult
from mnv4_deploy.layers.records import Diagnosis, LayersDrift, OutputTrial
from mnv4_deploy.profiles.records.device import DeviceFacts
from mnv4_deploy.profiles.records.files import TensorFacts
from mnv4_deploy.sessions.records import ModelRef
from mnv4_deploy.tasks.report import Comparison, Measured
from mnv4_deploy.text import brief, in_db, number_text, plural, rounded, with_interval

_MEGA = 1e6
_TENSORS, _TENSOR_CHARACTERS = 4, 60
_SEVERAL, _NAME_CHARACTERS = 2, 60


def subject_sentence(subject: ModelRef) -> str:
    """What a subject is: its kind and size, what it takes and gives."""
    kinds = {"torch": "PyTorch", "onnx": "ONNX", "tflite": "TFLite"}
    spec = subject.preprocessing
    parts = [
        kinds[subject.kind],
        f"{subject.size_bytes / _MEGA:.2f} MB",
        f"input {spec.height}x{spec.width}",
    ]
    if subject.num_classes:
        parts.append(f"{subject.num_classes:,} classes")
    if subject.outputs:
        parts.append(f"gives {tensors_text(subject.outputs)}")
    return ", ".join(parts)


def tensors_text(tensors: Sequence[TensorFacts]) -> str:
    """The first inputs or outputs with their types and shapes."""
    named = [brief(tensor.described, _TENSOR_CHARACTERS) for tensor in tensors[:_TENSORS]]
    if len(tensors) > _TENSORS:
        named.append(f"{len(tensors) - _TENSORS} more")
    return ", ".join(named)


def measured_text(measured: Measured, unit: str) -> str:
    return with_interval(measured.value, measured.low, measured.high, unit)


def drop_text(comparison: Comparison) -> str:
    """What the candidate lost, without its unit; "" where that is not told."""
    if comparison.difference is None:
        return ""
    return rounded(comparison.difference, comparison.note.partition(" ")[0].rstrip(","))


def measured_sentence(result: DriftResult) -> str:
    """How it was measured."""
    output = result.output
    if output.labelled == output.images:
        known = "all labelled"
    else:
        known = f"{output.labelled:,} of them labelled" if output.labelled else "without labels"
    said = (
        f"Both ran on the same {output.images:,} images of {result.data} ({known}), each with "
        "its own runtime."
    )
    if result.device is not None:
        said += f" Model files ran on {result.device.title}, PyTorch and layers on this machine."
    if result.layers is not None:
        said += f" Layers were compared on {plural(result.layers.images, 'image')} of them."
    if result.skipped:
        said += f" {plural(len(result.skipped), 'file')} could not be used."
    return said


def ranking_title(layers: LayersDrift) -> str:
    """What the list of causes is headed, or what stands in its place."""
    if layers.ranking:
        return "What it comes from, worst first"
    if layers.matters:
        return "No layer stands out: the drift is more than int8 costs, and all layers make it."
    return "Nothing to mend: the drift is no more than int8 costs, and no layer stands out."


def gain_sentence(layers: LayersDrift, entry: Diagnosis) -> str:
    """What mending an entry of the ranking would win, with those before it; "" if unknown."""
    effects, effect = layers.effects, entry.effect
    if effects is None or effect is None:
        return ""
    before, gain = effects.sqnr_db, effect.total_gain_db
    together = "" if gain == effect.gain_db else " and that of those above"
    return (
        f"Without its noise{together} the outputs would agree to {in_db(before + gain)} instead "
        f"of {in_db(before)}. "
    )


def trial_sentence(entry: Diagnosis) -> str:
    """What an entry of the ranking won when it was tried; "" where it was not."""
    trial = entry.trial
    if trial is None:
        return ""
    what = "in float, unrounded for its readers" if trial.in_float else "with a range that fits"
    return f"Tried {what}{_won(trial.images, trial.candidate, trial.mended)}. "


def together_sentence(layers: LayersDrift) -> str:
    """What the first layers of the ranking won together; "" where that was not tried."""
    effects = layers.effects
    if effects is None or effects.tried is None or not layers.ranking:
        return ""
    tried = effects.tried
    if len(tried.together) < _SEVERAL:
        return ""
    chosen = [layers.layers[effect.layer] for effect in effects.ranked[: len(tried.together)]]
    # A module may have several layers.
    modules = dict.fromkeys(layer.module or layer.tensor for layer in chosen)
    names = ", ".join(brief(module, _NAME_CHARACTERS) for module in modules)
    won = _won(tried.images, tried.candidate, tried.together[-1])
    return f"Tried together, {names} in float, unrounded for their readers{won}."


def _won(images: int, before: OutputTrial, after: OutputTrial) -> str:
    said = (
        f", on {plural(images, 'other image')}: {in_db(after.sqnr_db)} instead of "
        f"{in_db(before.sqnr_db)}"
    )
    if before.alike is None or after.alike is None:
        return said
    return f"{said}; the largest output is the reference's on {after.alike}, not {before.alike}"


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
