"""Read tensors from a checkpoint file without running code, and put them into a model."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnv4_deploy.errors import WeightsError
from mnv4_deploy.hashes import file_sha256
from mnv4_deploy.models import zoo
from mnv4_deploy.models.foreign_names import STEMS, to_timm_names

if TYPE_CHECKING:
    from torch import Tensor, nn

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar")
CHECKPOINT_SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
# In timm's order: averaged weights are the ones a training run reports and ships.
_WRAPPERS = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
_CLASSIFIERS = ("classifier.weight", "head.linear.weight", "head.weight")
# Buffers that published checkpoints hold though they follow from the architecture.
_DERIVED = (".attention_bias_idxs", ".rope.rotations")
_LISTED = 4
# Training state included: the largest model has 0.4 GB of parameters.
_MAX_BYTES = 16 << 30


@dataclass(frozen=True)
class Checkpoint:
    """A file's tensors by timm's names, unwrapped, and its safetensors metadata (else empty).

    Tensors that follow from the architecture (tables of indices, rotations) are left out. ``note``
    tells of others that stand beside the network.
    """

    path: Path
    sha256: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    note: str = ""

    @property
    def num_classes(self) -> int | None:
        """Rows of the classifier, or None where there is none."""
        heads = (self.tensors[name] for name in _CLASSIFIERS if name in self.tensors)
        return next((int(head.shape[0]) for head in heads if head.ndim == 2), None)


def read(path: Path, model: str = "") -> Checkpoint:
    """Read a .safetensors file, or a .pt/.pth one restricted to tensors.

    Of several networks in it that is taken whose tensors ``model`` has.

    Raises:
        WeightsError: missing, truncated, of another kind, a pickle that would run code, or
            several networks that ``model`` does not tell apart.
    """
    suffix = path.suffix.lower()
    if suffix not in CHECKPOINT_SUFFIXES:
        raise WeightsError(
            f"'{path}' is not a checkpoint by its name; give a .safetensors, .pt or .pth file."
        )
    if not path.is_file():
        raise WeightsError(f"There is no checkpoint file '{path}'; check the path.")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise WeightsError(
                f"'{path}' has {path.stat().st_size / 1e9:.0f} GB, more than any model here; give "
                "a checkpoint of the model."
            )
        sha256 = file_sha256(path)
        if suffix == ".safetensors":
            tensors, metadata = _read_safetensors(path)
        else:
            tensors, metadata = _read_torch(path), {}
    except OSError as error:
        raise WeightsError(
            f"'{path}' cannot be read ({error.strerror or error}); check the file."
        ) from error
    # torch.optim.swa_utils.AveragedModel keeps its step counter beside the weights.
    tensors = {
        key: value
        for key, value in tensors.items()
        if key != "n_averaged" and not key.endswith(_DERIVED)
    }
    prefix = _prefix(path, tensors, model)
    network = _under(prefix, tensors)
    beside = [key for key in tensors if not key.startswith(prefix)]
    note = _listing(beside, f"beside '{prefix}' and left out") if beside else ""
    return Checkpoint(path, sha256, to_timm_names(network), metadata, note)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, MemoryError):
        raise
    except Exception as error:  # SafetensorError, and what PyTorch raises of its types and shapes
        raise WeightsError(
            f"'{path}' is truncated or not a safetensors file ({error}); copy it again."
        ) from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    import argparse

    import torch

    try:
        # timm's training script stores its options as a Namespace, which is inert data.
        with (
            torch.serialization.safe_globals([argparse.Namespace]),
            warnings.catch_warnings(action="ignore"),  # what is wrong is said below
        ):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # what pickles of any bytes make PyTorch raise shares no base
        raise _refused(path, error) from error
    return _unwrap(content, path)


def _refused(path: Path, error: Exception) -> WeightsError:
    said = str(error)
    if isinstance(error, pickle.UnpicklingError) and ("Unsupported" in said or "GLOBAL" in said):
        return WeightsError(
            f"'{path}' holds more than tensors and could run code when loaded, so it was not; "
            "save it again with torch.save(model.state_dict(), ...) or as .safetensors."
        )
    if "TorchScript" in said:
        return WeightsError(
            f"'{path}' is a TorchScript program, which contains code; give a file with the "
            "model's state_dict instead."
        )
    if "allocate memory" in said:
        return WeightsError(
            f"'{path}' asks for more memory than there is; copy or download it again if it is of "
            "one of the models here."
        )
    return _broken(path)


def _broken(path: Path) -> WeightsError:
    return WeightsError(
        f"'{path}' is truncated or not a PyTorch checkpoint; copy or download it again."
    )


def _unwrap(content: object, path: Path) -> dict[str, Tensor]:
    import torch

    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                return _unwrap(content[key], path)
        tensors = {
            key: value
            for key, value in content.items()
            if isinstance(key, str) and isinstance(value, torch.Tensor)
        }
        if tensors:
            return tensors
    raise WeightsError(
        f"'{path}' holds no tensors by name, neither at the top nor under "
        f"{', '.join(_WRAPPERS)}; save the model's state_dict."
    )


def _prefix(path: Path, tensors: Mapping[str, Tensor], model: str) -> str:
    """What training put before the names of the network: all that stands before its stem's."""
    prefixes = {
        key.removesuffix(stem)
        for key in tensors
        for stem in STEMS
        if key == stem or key.endswith(f".{stem}")
    }
    if len(prefixes) > 1 and model:
        fits = {prefix: _fit(_under(prefix, tensors), model) for prefix in prefixes}
        prefixes = {prefix for prefix in prefixes if fits[prefix] == max(fits.values())}
    if len(prefixes) > 1:
        where = ", ".join(sorted(prefix or "the top level" for prefix in prefixes))
        raise WeightsError(
            f"'{path}' holds {len(prefixes)} networks ({where}): save the "
            "state_dict of the one you mean."
        )
    return next(iter(prefixes), "")


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
    }


def _fit(tensors: dict[str, Tensor], model: str) -> int:
    """How many tensors of ``model`` are among ``tensors``, in shape and name."""
    own = _on_meta(model, 1000)
    given = to_timm_names(tensors)
    return sum(key in own and own[key].shape == value.shape for key, value in given.items())


def _on_meta(model: str, num_classes: int) -> Mapping[str, Tensor]:
    import torch

    with torch.device("meta"):
        return zoo.build(model, num_classes=num_classes).state_dict()


def load_into(module: nn.Module, checkpoint: Checkpoint, model: str) -> None:
    """Load every tensor, cast to the module's own dtype (float32); leaves nothing half-loaded.

    Batch counters (``num_batches_tracked``) play no part in inference and may be missing.

    Raises:
        WeightsError: tensors missing, unexpected, of other shapes, not floating-point or not
            finite; they are listed by name, and a zoo model that does fit is named.
    """
    own = module.state_dict()
    problems = _mismatches(own, checkpoint.tensors)
    if problems:
        other = _fitting_model(checkpoint, except_for=model)
        hint = f" it fits '{other}', so use --model {other}." if other else ""
        raise WeightsError(
            f"'{checkpoint.path}' is not a checkpoint of {model}: {'; '.join(problems)}"
            + (f";{hint}" if hint else ".")
        )
    checks: tuple[tuple[str, Callable[[Tensor], bool]], ...] = (
        ("not floating-point", lambda tensor: not tensor.is_floating_point()),
        ("not finite (NaN or infinity)", lambda tensor: not bool(tensor.isfinite().all())),
    )
    for complaint, is_bad in checks:
        bad = [
            key
            for key, value in checkpoint.tensors.items()
            if own[key].is_floating_point() and is_bad(value)
        ]
        if bad:
            raise WeightsError(
                f"'{checkpoint.path}' cannot be used: {_listing(bad, complaint)}; "
                "give a checkpoint in float32, float16 or bfloat16 from a finished training."
            )
    module.load_state_dict(own | checkpoint.tensors)


def _mismatches(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    missing = [k for k in own if k not in given and not k.endswith("num_batches_tracked")]
    extra = [key for key in given if key not in own]
    misshaped = [
        f"{key} {_shape(given[key])} instead of {_shape(own[key])}"
        for key in own
        if key in given and given[key].shape != own[key].shape
    ]
    found = ((missing, "missing"), (extra, "unexpected"), (misshaped, "of another shape"))
    return [_listing(keys, complaint) for keys, complaint in found if keys]


def _shape(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "scalar"


def _listing(keys: list[str], complaint: str) -> str:
    noun = "tensor is" if len(keys) == 1 else "tensors are"
    more = f", and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
    return f"{len(keys)} {noun} {complaint} ({', '.join(keys[:_LISTED])}{more})"


def _fitting_model(checkpoint: Checkpoint, *, except_for: str) -> str | None:
    for name in zoo.names():
        if name != except_for:
            own = _on_meta(name, checkpoint.num_classes or 1000)
            if not _mismatches(own, checkpoint.tensors):
                return name
    return None
