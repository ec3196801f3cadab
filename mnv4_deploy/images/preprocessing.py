"""From an image file's pixels to a model's input, as timm evaluates; PIL and numpy only.

The order of steps and every rounding follow ``timm.data.transforms_factory
.transforms_imagenet_eval`` (crop mode "center") and torchvision's ``Resize`` and
``CenterCrop`` on PIL images, so accuracies are comparable with published ones. The one
addition is that EXIF orientation is applied: an app shows (and classifies) upright photos.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from mnv4_deploy.models.records import Preprocessing

# Beyond this the resized image would take gigabytes for a crop that shows nothing.
_MAX_ASPECT_RATIO = 64

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of an image in any mode; transparency is dropped, as timm does.

    16-bit grey is scaled to 8 bits (PIL alone would clip it to white).

    Raises:
        ValueError: floating-point or signed pixels, whose range is anybody's guess, or a strip
            more than 64 times as long as wide.
        OSError: the file is damaged (PIL decodes lazily, so it shows here).
    """
    if max(image.size) > _MAX_ASPECT_RATIO * min(image.size):
        raise ValueError(f"it is {image.width}x{image.height}, a strip rather than a picture")
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("its pixels are neither 8 nor 16 bits")
        image = Image.fromarray((wide >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("its pixels are floating-point")
    elif image.mode in ("P", "PA"):
        image = image.convert("RGBA")  # resolves palettes with transparency without a warning
    return image.convert("RGB")


def to_uint8(image: Image.Image, spec: Preprocessing) -> npt.NDArray[np.uint8]:
    """RGB pixels ``[height, width, 3]``, resized and cropped but not yet normalised.

    The crop box divided by ``crop_pct`` (rounded down) is what the resized image must cover.
    Square boxes: the shorter side is resized to it and the longer one rounded down.
    Other boxes: the image is scaled, keeping its aspect ratio, until it just covers the box;
    both sides round to nearest. The centre is then cropped.

    Raises:
        ValueError, OSError: see ``to_rgb``.
    """
    image = to_rgb(image)
    scaled_height = math.floor(spec.height / spec.crop_pct)
    scaled_width = math.floor(spec.width / spec.crop_pct)
    width, height = image.size
    if scaled_height == scaled_width:
        short, long = min(width, height), max(width, height)
        longer = int(scaled_height * long / short)
        new_size = (scaled_height, longer) if width <= height else (longer, scaled_height)
    else:
        ratio = min(height / scaled_height, width / scaled_width)
        new_size = (round(width / ratio), round(height / ratio))
    if new_size != image.size:
        image = image.resize(new_size, _FILTERS[spec.interpolation])
    # Python's round halves to even, and so does torchvision's CenterCrop.
    top = round((image.height - spec.height) / 2.0)
    left = round((image.width - spec.width) / 2.0)
    return np.asarray(image.crop((left, top, left + spec.width, top + spec.height)))


def normalize(pixels: npt.NDArray[np.uint8], spec: Preprocessing) -> npt.NDArray[np.float32]:
    """``(pixels / 255 - mean) / std`` per channel; ``[..., 3]`` uint8 to float32."""
    mean = np.asarray(spec.mean, np.float32)
    std = np.asarray(spec.std, np.float32)
    scaled = pixels.astype(np.float32) / np.float32(255)
    return ((scaled - mean) / std).astype(np.float32, copy=False)
