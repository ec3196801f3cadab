"""Images small enough to go into a page."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

SIZE = 128
_QUALITY = 72


def thumbnail(path: str) -> str | None:
    """A JPEG of at most 128 x 128 pixels as a data URI; None where the file is no image now.

    It is encoded anew, so nothing of the file but its pixels gets into the page.
    """
    from PIL import Image

    from mnv4_deploy.images.preprocessing import to_rgb

    try:
        with warnings.catch_warnings(), Image.open(Path(path)) as image:
            # Size and metadata were good enough for the run.
            warnings.simplefilter("ignore")
            image.draft("RGB", (2 * SIZE, 2 * SIZE))
            small = to_rgb(image)
            small.thumbnail((SIZE, SIZE))
            encoded = io.BytesIO()
            # Only the pixels: an opened image also hands comments and profiles on.
            bare = Image.frombytes("RGB", small.size, small.tobytes())
            bare.save(encoded, "JPEG", quality=_QUALITY)
    except Exception:  # PIL's decoders raise nearly anything on damaged files
        return None
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode('ascii')}"
