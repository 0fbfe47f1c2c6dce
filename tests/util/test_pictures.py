"""The one reader of pictures, held against what vLLM makes of what it is sent."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from harness.util import environments, pictures

MODES = ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "YCbCr", "HSV", "PA", "La", "RGBa", "I;16")


def drawn(mode: str) -> Image.Image:
    """A picture with something transparent in it, where the mode can hold that."""
    base = Image.effect_noise((20, 10), 60).convert("RGBA")
    base.putalpha(Image.linear_gradient("L").resize((20, 10)))
    if mode == "I;16":
        return Image.fromarray((np.arange(200, dtype=np.uint16) * 300).reshape(10, 20))
    if mode == "La":
        return base.convert("LA").convert("La")
    if mode == "PA":
        return base.convert("P").convert("PA")
    return base.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV", "P") else base.convert(mode)


def as_vllm(picture: Image.Image) -> Image.Image:
    """What vLLM makes of the PNG of a picture."""
    environments.prepare_imports()
    image = pytest.importorskip("vllm.multimodal.image")
    read = image.normalize_image(Image.open(io.BytesIO(base64.b64decode(pictures.png_url(picture).partition(",")[2]))))
    made: Image.Image = image.convert_image_mode(read, "RGB")
    return made


@pytest.mark.parametrize("mode", MODES)
def test_what_is_shown_is_what_vllm_makes_of_what_is_sent(mode):
    picture = drawn(mode)
    assert picture.mode == mode
    sent = pictures.sent(picture)
    assert sent.mode in pictures.SENT
    assert pictures.seen(sent).tobytes() == as_vllm(sent).tobytes()


def test_a_picture_that_needs_nothing_is_itself():
    """Its pixels are hashed in Records; those of earlier versions stay comparable."""
    for mode in pictures.SENT:
        picture = drawn(mode)
        assert pictures.sent(picture) is picture


def test_a_transparent_palette_and_colour_are_white():
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([0, 0, 0, 255, 0, 0])
    picture.info["transparency"] = 0
    assert pictures.seen(picture).getcolors() == [(16, (255, 255, 255))] and as_vllm(picture).getcolors() == [
        (16, (255, 255, 255))
    ]


def test_exif_turns_a_picture_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    out = io.BytesIO()
    Image.effect_noise((6, 12), 50).save(out, "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(out.getvalue())))
    assert pictures.opened(out.getvalue()).tobytes() == upright.tobytes() and upright.size == (12, 6)


def test_sixteen_bits_are_scaled_and_not_cut_off():
    grey = Image.fromarray(np.array([[0, 257 * 128, 65535]], dtype=np.uint16))
    assert list(pictures.sent(grey).tobytes()) == [0, 128, 255]


def png(size: tuple[int, int] = (40, 40)) -> bytes:
    out = io.BytesIO()
    Image.effect_noise(size, 90).save(out, "PNG")
    return out.getvalue()


def test_every_place_that_a_picture_comes_from(tmp_path):
    data = png()
    (tmp_path / "a.png").write_bytes(data)
    text = base64.b64encode(data).decode()
    stored = ({"bytes": data, "path": None}, {"bytes": None, "path": "a.png"}, Image.open(io.BytesIO(data)))
    sources = (data, "a.png", text, f"data:image/png;base64,{text}", *stored)
    assert len({pictures.opened(source, tmp_path).tobytes() for source in sources}) == 1


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (None, "is empty"),
        (b"", "is empty"),
        ("", "is empty"),
        ({"bytes": None, "path": None}, "is empty"),
        (png()[:-600], "cannot be read to its end: "),
        (b"no picture at all", "is no picture that Pillow reads"),
        ("gone.png", "is the path gone.png, where no file is"),
        ("nul\0byte", "is the path nul"),
        ("!" * 300, "is a text that is neither a path nor base64"),
        ("data:image/png;base64,?", "is a text that is neither a path nor base64"),
        (7, "is int, no picture"),
        (Image.new("F", (4, 4)), "is of mode F, whose values have no set range"),
        (Image.new("LAB", (4, 4)), "is of mode LAB"),
        (Image.new("I", (4, 4)), "is of mode I,"),
    ],
)
def test_what_is_no_picture_is_told_in_words(tmp_path, source, told):
    with pytest.raises(ValueError) as said:
        pictures.opened(source, tmp_path)
    assert str(said.value).startswith(told) and "Error" not in str(said.value) and "0x" not in str(said.value)
