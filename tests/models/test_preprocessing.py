"""Preprocessing against expectations worked out by hand from torchvision's definitions."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnv4_deploy.images.preprocessing import normalize, to_rgb, to_uint8
from mnv4_deploy.models.records import Preprocessing


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (8, 8, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


@pytest.mark.parametrize(
    ("source", "spec", "resized", "corner"),
    [
        # (width, height) resized to, then (left, top) of the crop.
        ((320, 240), Preprocessing(224, 224, crop_pct=0.875), (341, 256), (58, 16)),
        ((240, 320), Preprocessing(224, 224, crop_pct=0.875), (256, 341), (16, 58)),
        ((500, 333), Preprocessing(256, 256, crop_pct=0.95), (403, 269), (74, 6)),
        ((32, 32), Preprocessing(96, 96), (96, 96), (0, 0)),
        ((97, 96), Preprocessing(96, 96), (97, 96), (0, 0)),
        ((100, 50), Preprocessing(64, 64), (128, 64), (32, 0)),
        # Non-square boxes: scaled until both sides cover the box.
        ((640, 480), Preprocessing(192, 320), (320, 240), (0, 24)),
        ((640, 200), Preprocessing(192, 320), (614, 192), (147, 0)),
        ((300, 300), Preprocessing(90, 180, crop_pct=0.9), (200, 200), (10, 55)),
    ],
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_geometry(
    source: tuple[int, int],
    spec: Preprocessing,
    resized: tuple[int, int],
    corner: tuple[int, int],
    interpolation: str,
) -> None:
    spec = Preprocessing(
        spec.height,
        spec.width,
        crop_pct=spec.crop_pct,
        interpolation="bicubic" if interpolation == "bicubic" else "bilinear",
    )
    image = picture(*source)
    kind = Image.Resampling[interpolation.upper()]
    whole = np.asarray(image.resize(resized, kind))
    left, top = corner
    expected = whole[top : top + spec.height, left : left + spec.width]
    np.testing.assert_array_equal(to_uint8(image, spec), expected)


def test_normalisation_is_per_channel() -> None:
    spec = Preprocessing(1, 2, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 2.0))
    pixels = np.array([[[0, 51, 255], [255, 0, 102]]], np.uint8)
    expected = [[[-0.2, 0.0, 0.35], [1.8, -0.8, 0.05]]]
    actual = normalize(pixels, spec)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_8_bit_mode(mode: str) -> None:
    image = picture(40, 40).convert(mode)
    expected = image.convert("RGB")
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.asarray(expected))
    assert to_uint8(image, Preprocessing(32, 32)).shape == (32, 32, 3)


def test_palette_with_transparency(tmp_path: Path) -> None:
    image = picture(40, 40).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes(range(256)))
    with Image.open(tmp_path / "p.png") as read:
        assert read.mode == "P"
        np.testing.assert_array_equal(np.asarray(to_rgb(read)), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_16_bit_grey_is_scaled_not_clipped(
    tmp_path: Path, dtype: type[np.uint16 | np.int32]
) -> None:
    grey: np.ndarray = np.array([[0, 255, 256], [32768, 65279, 65535]], dtype)
    image = Image.fromarray(grey)
    expected = np.array([[0, 0, 1], [128, 254, 255]], np.uint8)
    np.testing.assert_array_equal(np.asarray(to_rgb(image)), np.stack(3 * [expected], -1))
    if dtype is np.uint16:
        image.save(tmp_path / "grey.png")
        with Image.open(tmp_path / "grey.png") as read:
            np.testing.assert_array_equal(np.asarray(to_rgb(read))[..., 0], expected)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = picture(60, 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate a quarter clockwise to view
    image.save(tmp_path / "transposed.png", exif=exif)
    with Image.open(tmp_path / "transposed.png") as read:
        upright = np.asarray(to_rgb(read))
    np.testing.assert_array_equal(upright, np.rot90(np.asarray(image), -1))


def test_pixels_of_unknown_range_are_refused() -> None:
    with pytest.raises(ValueError, match="floating-point"):
        to_rgb(Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(ValueError, match="neither 8 nor 16"):
        to_rgb(Image.fromarray(np.full((4, 4), -1, np.int32)))


def test_strips_are_refused_instead_of_filling_the_memory() -> None:
    with pytest.raises(ValueError, match="10000x1"):
        to_uint8(Image.new("RGB", (10_000, 1)), Preprocessing(224, 224))


def test_equals_timm() -> None:
    try:
        from timm.data.transforms_factory import create_transform
    except Exception as error:
        pytest.skip(f"timm cannot be imported: {error}")
    for size, crop in (((224, 224), 0.875), ((192, 320), 0.95)):
        spec = Preprocessing(*size, crop_pct=crop)
        theirs = create_transform((3, *size), interpolation="bicubic", crop_pct=crop)
        for source in ((500, 333), (200, 301)):
            image = picture(*source)
            expected = theirs(image).permute(1, 2, 0).numpy()
            actual = normalize(to_uint8(image, spec), spec)
            np.testing.assert_allclose(actual, expected, atol=1e-6)
