"""Pictures, read in one way by everything that reads one: `run`, `infer`, calibration, the report's page.

What a model sees is RGB: upright as EXIF says, on white where the file is transparent. vLLM makes that itself of what the
PNG format holds; what PNG cannot hold is converted here before it is sent, or refused.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import io
import re
import warnings
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

SENT = ("RGB", "RGBA", "L", "LA", "P", "1")
"""Modes that PNG holds and vLLM reads as they are meant."""
CONVERTED = ("CMYK", "YCbCr", "HSV", "PA", "La", "RGBa", "RGBX")
"""Modes that Pillow converts without loss of what is to be seen."""
DEEP = ("I;16", "I;16L", "I;16B", "I;16N")
"""Grey values of 16 bits: Pillow's own conversion would cut them off at 255, which is nearly black."""
MOST_PIXELS = 178_956_970
"""More than this in one picture is taken for an attack, as Pillow does."""


def opened(value: Any, folder: Path | None = None) -> Image.Image:
    """The picture as it is sent (see `sent`), wholly read.

    value: a PIL image, a file's bytes, a path, a `data:` URL, base64, or {"bytes": ..., "path": ...} as parquet files store
    it. folder: what paths are relative to. Raises ValueError with the reason, in words that follow "its picture".
    """
    picture = _open(value, folder)
    try:
        with warnings.catch_warnings():
            # Pillow warns of a size that is refused below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture.load()
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read to its end: {_line(error)}") from None
    return sent(picture)


def sent(picture: Image.Image) -> Image.Image:
    """The picture as a server is sent it: upright, in a mode that PNG holds; itself where it is so. Raises ValueError."""
    if picture.getexif().get(Image.ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in SENT:
        return picture
    if picture.mode in CONVERTED:
        return seen(picture)
    if picture.mode in DEEP:
        # 65,535 becomes 255.
        import numpy as np

        return Image.fromarray((np.asarray(picture).astype(np.float32) / 257).round().astype(np.uint8), "L")
    raise ValueError(f"is of mode {picture.mode}, whose values have no set range: save it as RGB")


def seen(picture: Image.Image) -> Image.Image:
    """What a model sees of it: RGB, on white where it is transparent, as vLLM makes it of what it is sent."""
    if picture.mode == "RGB" and "transparency" not in picture.info:
        return picture
    if picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info:
        # Pillow takes premultiplied grey to grey with alpha alone.
        clear = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        white = Image.new("RGB", clear.size, "white")
        white.paste(clear, mask=clear.getchannel("A"))
        return white
    return picture.convert("RGB")


def png_url(picture: Image.Image) -> str:
    """A picture as the `data:` URL of a PNG."""
    png = io.BytesIO()
    picture.save(png, format="PNG")
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _open(value: Any, folder: Path | None) -> Image.Image:
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, Image.Image):
        return value
    held = stored(value, folder)
    try:
        return _decoded(held if isinstance(held, bytes) else held.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot be read: {_line(error)}") from None


def stored(value: Any, folder: Path | None = None) -> bytes | Path:
    """Where a picture that is not opened yet lies: its file, or the bytes of one. value, folder: as for `opened`. Raises
    ValueError with the reason, in words that follow "its picture"."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if value is None or (isinstance(value, bytes | str) and not value):
        raise ValueError("is empty")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str | Path):
        raise ValueError(f"is {type(value).__name__}, no picture")
    text = str(value)
    if text.startswith("data:"):
        return _base64(text.partition(",")[2])
    path = (folder or Path()) / text
    with contextlib.suppress(OSError, ValueError):  # base64 is longer than a name may be
        if path.is_file():
            return path
    if _coded(text):
        return _base64(text)
    raise ValueError(f"is the path {text[:200]}, where no file is")


def _coded(text: str) -> bool:
    """Whether a text is too long for a path, or is all of base64's letters and longer than most names."""
    return len(text) > 255 or (len(text) > 64 and re.fullmatch(r"[A-Za-z0-9+/]+=*", text) is not None)


def _base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is a text that is neither a path nor base64") from None


def _decoded(data: bytes) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data))
    except UnidentifiedImageError:
        raise ValueError("is no picture that Pillow reads") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot be read: {_line(error)}") from None
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(f"is {picture.width}x{picture.height} pixels, more than {MOST_PIXELS:,} are not read")
    return picture


def _line(error: Exception) -> str:
    return getattr(error, "strerror", None) or (str(error).strip().splitlines() or ["it is damaged"])[0][:200]
