"""The one image preparation, and the views drawn from it."""

import io
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import golden_pixels
import numpy as np
import pytest
import tiny
from PIL import Image

from registry.errors import BadImage
from registry.images import ONE_LARGE, ImageSpec, Large, image_info, leaving_large, prepare
from registry.jpeg import count_scans
from registry.png import SIGNATURE
from registry.tta import SYMMETRIES, TtaSpec, tta_views

SPEC = ImageSpec(size=32)


def scene(width: int, height: int) -> Image.Image:
    """Smooth, and different in each corner, so that a turn or a shift would show."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    channels = [x * 255, y * 255, (np.sin(6 * x) * np.cos(4 * y) + 1) * 127]
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def difference(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a.astype(float) - b.astype(float)).mean())


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("size", [(32, 32), (500, 375), (375, 500), (8, 8), (1, 1), (3000, 20)])
def test_any_image_becomes_a_square_of_rgb(format: str, size: tuple[int, int]) -> None:
    pixels = prepare(tiny.encode(scene(*size), format), SPEC)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)


@pytest.mark.parametrize("crop", ["center", "squash"])
@pytest.mark.parametrize("size", [(1600, 1200), (1201, 803), (640, 2000)])
def test_decoding_at_the_size_needed_is_close_to_decoding_it_all(
    crop: str, size: tuple[int, int]
) -> None:
    spec = ImageSpec(size=64, crop=crop, crop_fraction=0.875)
    image = scene(*size)
    scaled = prepare(tiny.encode(image, "JPEG", quality=95), spec)
    full = prepare(tiny.encode(image, "PNG"), spec)
    assert difference(scaled, full) < 1.5


def test_center_keeps_the_middle_and_squash_keeps_it_all() -> None:
    image = Image.new("RGB", (300, 100), (255, 0, 0))
    image.paste((0, 0, 255), (100, 0, 200, 100))
    encoded = tiny.encode(image, "PNG")
    assert prepare(encoded, SPEC)[:, 2:-2, 0].max() == 0
    squashed = prepare(encoded, ImageSpec(size=32, crop="squash"))
    assert squashed[16, 0].tolist() == [255, 0, 0]
    assert squashed[16, 16].tolist() == [0, 0, 255]


# How each Exif orientation is undone, from the standard: (row, column) order of the stored image.
STORED_AS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED_AS)
@pytest.mark.parametrize("crop", ["center", "squash"])
def test_every_exif_orientation_is_turned_upright(orientation: int, crop: str) -> None:
    spec = ImageSpec(size=32, crop=crop)
    upright = scene(120, 80)
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](np.asarray(upright))))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = prepare(tiny.encode(stored, "JPEG", exif=exif, quality=98), spec)
    assert difference(turned, prepare(tiny.encode(upright, "PNG"), spec)) < 2


def test_broken_exif_is_no_orientation() -> None:
    encoded = tiny.encode(scene(40, 40), "JPEG", exif=b"Exif\0\0garbage")
    assert prepare(encoded, SPEC).shape == (32, 32, 3)


def test_cmyk_is_converted() -> None:
    red = Image.new("RGB", (40, 40), (255, 0, 0)).convert("CMYK")
    pixels = prepare(tiny.encode(red, "JPEG"), SPEC)
    assert pixels[..., 0].min() > 240
    assert pixels[..., 1:].max() < 15


@pytest.mark.parametrize(("level", "expected"), [(0, 0), (0x80FF, 0x80), (0xFFFF, 255)])
def test_sixteen_bits_lose_their_lower_half(level: int, expected: int) -> None:
    content = io.BytesIO()
    Image.fromarray(np.full((40, 40), level, np.uint16)).save(content, "PNG")
    assert set(prepare(content.getvalue(), SPEC).ravel().tolist()) == {expected}


@pytest.mark.parametrize("kind", ["palette", "rgba", "grey", "bilevel"])
def test_transparency_is_laid_on_white(kind: str) -> None:
    clear = Image.new("RGBA", (40, 40), (10, 20, 30, 0))
    if kind == "palette":
        encoded = tiny.encode(clear.quantize(2), "PNG")
    elif kind == "rgba":
        encoded = tiny.encode(clear, "PNG")
    elif kind == "grey":
        encoded = tiny.encode(Image.new("LA", (40, 40), (10, 0)), "PNG")
    else:
        encoded = tiny.encode(Image.new("1", (40, 40), 1), "PNG")
    assert prepare(encoded, SPEC).min() == 255


CLEAR = {
    "RGB": (Image.new("RGB", (40, 40), (200, 100, 50)), (200, 100, 50), (200, 100, 50)),
    "grey": (Image.new("L", (40, 40), 77), 77, (77, 77, 77)),
    "16-bit grey": (Image.fromarray(np.full((40, 40), 40000, np.uint16)), 40000, (156, 156, 156)),
}


@pytest.mark.parametrize("kind", CLEAR)
def test_a_colour_that_is_transparent_is_white_except_for_models_trained_without(kind: str) -> None:
    image, colour, before = CLEAR[kind]
    encoded = tiny.encode(image, "PNG", transparency=colour)
    assert prepare(encoded, SPEC).min() == 255
    as_trained = prepare(encoded, ImageSpec(size=32, preparation=1))
    assert tuple(as_trained[0, 0]) == before
    another = 1 if kind != "RGB" else (1, 2, 3)
    assert tuple(prepare(tiny.encode(image, "PNG", transparency=another), SPEC)[0, 0]) == before


@pytest.mark.parametrize("kind", CLEAR)
@pytest.mark.parametrize("preparation", [1, 2])
def test_a_png_that_names_a_transparent_colour_but_has_no_pixels_is_a_bad_image(
    kind: str, preparation: Literal[1, 2]
) -> None:
    """It raised an IndexError, for which every image of the request was refused."""
    image, colour, _ = CLEAR[kind]
    chunks = png_chunks(tiny.encode(image, "PNG", transparency=colour))
    emptied = SIGNATURE + b"".join(each for each in chunks if each[4:8] != b"IDAT")
    with pytest.raises(BadImage, match="truncated or damaged PNG"):
        prepare(emptied, ImageSpec(size=32, preparation=preparation))


@pytest.mark.parametrize("kind", CLEAR)
def test_models_trained_without_transparent_colours_also_ignore_one_named_after_the_pixels(
    kind: str,
) -> None:
    image, colour, before = CLEAR[kind]
    chunks = png_chunks(tiny.encode(image, "PNG", transparency=colour))
    order = [b"IHDR", b"IDAT", b"tRNS", b"IEND"]
    late = SIGNATURE + b"".join(sorted(chunks, key=lambda each: order.index(each[4:8])))
    assert tuple(prepare(late, ImageSpec(size=32, preparation=1))[0, 0]) == before


def png_chunks(encoded: bytes) -> list[bytes]:
    """Each with its length, type and checksum."""
    chunks, place = [], len(SIGNATURE)
    while place < len(encoded):
        (length,) = struct.unpack_from(">I", encoded, place)
        chunks.append(encoded[place : place + 12 + length])
        place += 12 + length
    return chunks


def test_an_animation_gives_its_first_picture() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    encoded = tiny.encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    assert prepare(encoded, SPEC)[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("kind", golden_pixels.images())
def test_pixels_are_those_of_the_golden_set(kind: str) -> None:
    """One level is left to decoders of other versions and processors."""
    encoded, golden = golden_pixels.read()[kind]
    assert np.abs(golden_pixels.pixels_of(encoded).astype(int) - golden).max() <= 1


def test_the_golden_set_can_be_made_again() -> None:
    fresh, kept = golden_pixels.images(), golden_pixels.read()
    assert sorted(fresh) == sorted(kept)
    for kind, encoded in fresh.items():
        assert difference(golden_pixels.pixels_of(encoded), kept[kind][1]) < 1


def png_header(width: int, height: int) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 10) + b"IDAT"


BAD = {
    "empty": (b"", "empty: 0 bytes"),
    "text": (b"hello, world", "not an image: 12 bytes that begin with b'hello, world'"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC, as phones write it, is not supported; save"),
    "avif": (b"\0\0\0\x1cftypavif\0\0\0\0", "AVIF is not supported; save it as JPEG"),
    "gif": (tiny.encode(Image.new("L", (4, 4)), "GIF"), "not an image"),
    "truncated jpeg": (tiny.noise(1, (300, 300), "JPEG")[:5000], "truncated or damaged JPEG"),
    "truncated png": (tiny.noise(1, (300, 300), "PNG")[:5000], "truncated or damaged PNG"),
    "header alone": (tiny.noise(1, (300, 300), "JPEG")[:20], "not an image"),
    "a bomb": (png_header(50_000, 50_000), "too many pixels, the limit is 100000000"),
}


def interlaced_png() -> bytes:
    """One of 8 x 8 grey pixels, black, in its seven passes."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    passes = b"".join(bytes(1 + n) * rows for n, rows in INTERLACED)
    pixels = zlib.compress(passes)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND")


INTERLACED = ((1, 1), (1, 1), (2, 1), (2, 2), (4, 2), (4, 4), (8, 4))  # pixels of a row, and rows


def test_an_interlaced_png_is_read_and_a_truncated_one_is_a_bad_image() -> None:
    whole = interlaced_png()
    assert prepare(whole, SPEC).max() == 0
    with pytest.raises(BadImage, match="truncated or damaged PNG"):
        prepare(whole[:-24], SPEC)


def test_every_row_of_an_image_counts_as_several_pixels() -> None:
    narrow = tiny.encode(Image.new("L", (1, 100)), "PNG")
    assert prepare(narrow, SPEC, max_pixels=1_600).shape == (32, 32, 3)
    with pytest.raises(
        BadImage, match="1 x 100 pixels is above the limit of 1599 for a PNG, whose rows count"
    ):
        prepare(narrow, SPEC, max_pixels=1_599)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_image_is_explained(name: str) -> None:
    content, message = BAD[name]
    with pytest.raises(BadImage) as caught:
        prepare(content, SPEC)
    assert message in str(caught.value)


def test_a_bomb_is_refused_from_its_header() -> None:
    began = time.thread_time()
    with pytest.raises(BadImage):
        prepare(png_header(50_000, 50_000), SPEC)
    assert time.thread_time() - began < 0.1


def with_scans(n_scans: int, size: int) -> bytes:
    """A progressive JPEG whose last scan comes again and again, until it has so many."""
    encoded = tiny.encode(Image.new("RGB", (size, size)), "JPEG", progressive=True)
    last = encoded[encoded.rindex(b"\xff\xda") : -2]
    missing = n_scans - count_scans(encoded).number
    return encoded[:-2] + missing * last + encoded[-2:]


def test_scans_go_through_no_more_pixels_than_those_of_large_images() -> None:
    assert prepare(with_scans(40, size=64), SPEC, max_pixels=64 * 64 * 2).shape == (32, 32, 3)
    with pytest.raises(BadImage, match="41 scans of 64 x 64 pixels are too many for a JPEG; re-"):
        prepare(with_scans(41, size=64), SPEC, max_pixels=64 * 64 * 2)
    with pytest.raises(BadImage, match="a JPEG of more than 2000 segments"):
        prepare(with_scans(2_001, size=8), SPEC)


def test_many_scans_are_admitted_as_more_pixels() -> None:
    told: list[int] = []
    for encoded in (tiny.encode(scene(64, 64), "PNG"), with_scans(40, size=64)):
        prepare(encoded, SPEC, admit=told.append)
    assert told == [64 * 64, 2 * 64 * 64]


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(content)) + content


def test_the_picture_of_a_jpeg_comes_before_16_megabytes_of_something_else() -> None:
    encoded = tiny.encode(scene(40, 30), "JPEG")
    exif = segment(0xE1, b"Exif\0\0".ljust(65_000, b"x"))
    assert prepare(encoded[:2] + 100 * exif + encoded[2:], SPEC).shape == (32, 32, 3)
    with pytest.raises(BadImage, match="more than 16 MB before its image data"):
        prepare(encoded[:2] + 300 * exif + encoded[2:], SPEC)


def test_scans_are_counted_as_a_decoder_meets_them() -> None:
    plain = tiny.encode(scene(40, 30), "JPEG")
    assert count_scans(plain) == count_scans(plain + 9 * plain) == (1, True)  # a film may follow
    hidden = segment(0xE1, b"\xff\xda" * 99)  # so may a small copy come before it
    assert count_scans(plain[:2] + hidden + plain[2:]) == (1, True)
    alone = b"\xff\x01\xff\xd0\xff\xff"  # these have no length to be passed over by
    assert count_scans(plain[:2] + alone + plain[2:]) == (1, True)
    assert count_scans(plain[:2] + alone + 5 * segment(0xDA, b"\x03")) == (5, False)
    assert count_scans(plain.replace(b"\xff\xc0", b"\xff\xc2")[:-2] + segment(0xDA, b"x")) == (
        2,
        False,
    )
    assert count_scans(b"\xff\xd8\xff\xda") == (1, False)


def chunk(name: bytes, content: bytes = b"") -> bytes:
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def with_chunks(*chunks: bytes) -> bytes:
    """A PNG that has these before its pixels."""
    plain = tiny.encode(scene(40, 30), "PNG")
    header = 8 + 25  # the signature and the first chunk
    return plain[:header] + b"".join(chunks) + plain[header:]


def test_a_png_has_no_more_chunks_than_a_picture_needs() -> None:
    empty, text = chunk(b"IDAT"), chunk(b"tEXt", b"a\0b")
    for fine in ([empty] * 19_000, [text] * 999, [chunk(b"prVt", bytes(999_999))]):
        assert prepare(with_chunks(*fine), SPEC).shape == (32, 32, 3)
    with pytest.raises(BadImage, match="a PNG of more than 20000 chunks; re-encode it"):
        prepare(with_chunks(*[empty] * 20_000), SPEC)
    with pytest.raises(BadImage, match="more than 1000 chunks besides its pixels"):
        prepare(with_chunks(*[text] * 1_000), SPEC)


PACKED = zlib.compress(b"text")


@pytest.mark.parametrize(
    "packed",
    [
        chunk(b"zTXt", b"keyword\0\0" + PACKED),
        chunk(b"iTXt", b"keyword\0\1\0\0\0" + PACKED),
        chunk(b"iCCP", b"keyword\0\0" + PACKED),
    ],
)
def test_a_png_has_few_texts_to_unpack(packed: bytes) -> None:
    plain = chunk(b"iTXt", b"keyword\0\0\0\0\0text")
    few, more = with_chunks(*[plain] * 500, *[packed] * 50), with_chunks(*[packed] * 51)
    assert prepare(few, SPEC).shape == (32, 32, 3)
    with pytest.raises(BadImage, match="more than 50 compressed texts or profiles; re-encode it"):
        prepare(more, SPEC)


def test_of_a_png_chunks_are_counted_to_its_end() -> None:
    plain = tiny.encode(scene(40, 30), "PNG")
    assert prepare(plain + bytes(999_999), SPEC).shape == (32, 32, 3)
    frames = [Image.new("L", (4, 4), i % 256) for i in range(1_100)]
    film = tiny.encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert film.count(b"fcTL") == 1_100
    assert prepare(film, SPEC).max() == 0


DEEP = {
    "RGBA": scene(40, 30).convert("RGBA"),
    "LA": scene(40, 30).convert("LA"),
    "P": scene(40, 30).quantize(16),
    "1": scene(40, 30).convert("1"),
    "I;16": Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50),
}


@pytest.mark.parametrize("mode", DEEP)
def test_images_that_are_made_8_bits_band_by_band_are_the_same(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = DEEP[mode]
    if image.mode in ("RGBA", "LA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    encoded = tiny.encode(image, "PNG", **({"transparency": 3} if mode == "P" else {}))
    whole = prepare(encoded, SPEC)
    monkeypatch.setattr("registry.images.BAND_PIXELS", 40 * 7)
    assert (prepare(encoded, SPEC) == whole).all()


def test_transparency_of_a_large_image_takes_no_memory_of_its_own() -> None:
    """A WebP of 174 KB took 2.7 GB, which is more than a server may have."""
    encoded = tiny.encode(Image.new("RGBA", (5_000, 5_000)), "PNG", compress_level=1)
    script = [sys.executable, "-c", PREPARE]
    told = subprocess.run(script, input=encoded, stdout=subprocess.PIPE, check=True).stdout
    assert int(told.split()[1]) < 350_000  # kB: twice 100 MB, and the program; otherwise 510 MB


PREPARE = """
import sys
from pathlib import Path
from registry.images import ImageSpec, prepare
prepare(sys.stdin.buffer.read(), ImageSpec(size=224))
(peak,) = (line for line in Path("/proc/self/status").open() if line.startswith("VmHWM"))
print(peak)
"""


def test_a_webp_may_have_a_quarter_of_the_pixels() -> None:
    encoded = tiny.encode(scene(50, 50), "WEBP")
    assert prepare(encoded, SPEC, max_pixels=10_000).shape == (32, 32, 3)
    with pytest.raises(BadImage, match="50 x 50 pixels is above the limit of 2499 for a WEBP"):
        prepare(encoded, SPEC, max_pixels=9_999)


@pytest.mark.parametrize(
    ("kind", "cut"),
    [("PNG", False), ("JPEG", False), ("JPEG", True)],
    ids=["png", "jpeg in several scans", "jpeg of which several were expected"],
)
def test_of_images_that_are_large_in_memory_there_is_one_at_a_time(
    kind: str, cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("registry.images.LARGE_PIXELS", 40 * 30)
    options = {"progressive": True} if kind == "JPEG" else {}
    large, small = (tiny.encode(scene(40, height), kind, **options) for height in (31, 30))
    if cut:
        second = large.index(b"\xff\xda", large.index(b"\xff\xda") + 1)
        large = large[:second] + b"\xff\xd9"
    photo = tiny.encode(scene(40, 31), "JPEG")
    with ThreadPoolExecutor() as pool:
        with ONE_LARGE:
            waits = pool.submit(prepare, large, SPEC)
            for one in (small, photo):
                assert pool.submit(prepare, one, SPEC).result(20).shape == (32, 32, 3)
            assert not waits.done()
        assert waits.result(20).shape == (32, 32, 3)


def test_large_images_are_left_to_others_only_where_the_caller_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("registry.images.LARGE_PIXELS", 40 * 30)
    large, small = (tiny.encode(scene(40, height), "PNG") for height in (31, 30))
    with ThreadPoolExecutor() as pool, leaving_large():
        assert prepare(small, SPEC).shape == (32, 32, 3)
        with pytest.raises(Large):
            prepare(large, SPEC)
        assert pool.submit(prepare, large, SPEC).result(20).shape == (32, 32, 3)
    assert prepare(large, SPEC).shape == (32, 32, 3)


def test_a_caller_may_set_a_lower_limit() -> None:
    encoded = tiny.encode(scene(100, 100), "PNG")
    with pytest.raises(BadImage, match="100 x 100 pixels is above the limit of 9999"):
        prepare(encoded, SPEC, max_pixels=9_999)
    assert image_info(encoded, 10_000) == (100, 100, "RGB", "PNG")


def test_equal_specs_have_equal_digests() -> None:
    assert ImageSpec(size=32).digest() == SPEC.digest()
    assert ImageSpec(size=33).digest() != SPEC.digest()
    assert ImageSpec(size=32, crop="squash").digest() != SPEC.digest()


# Views


PIXELS = prepare(tiny.encode(scene(64, 64), "PNG"), SPEC)
STILL = {"max_zoom": 1.0, "lighting": 0.0}


@pytest.mark.parametrize("n_views", [0, 1])
def test_no_views_and_one_view_are_the_plain_image(n_views: int) -> None:
    np.testing.assert_array_equal(tta_views(PIXELS, b"x", TtaSpec(), n_views), PIXELS[None])


def test_the_same_bytes_draw_the_same_views() -> None:
    first, again, other = (tta_views(PIXELS, key, TtaSpec(), 6) for key in (b"a", b"a", b"b"))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_more_views_begin_with_the_fewer() -> None:
    spec = TtaSpec(symmetries="dihedral")
    views = tta_views(PIXELS, b"a", spec, 20)
    assert views.shape == (20, 32, 32, 3)
    np.testing.assert_array_equal(views[0], PIXELS)


@pytest.mark.parametrize("symmetries", SYMMETRIES)
def test_symmetries_are_used_up_before_one_comes_again(symmetries: str) -> None:
    spec = TtaSpec(symmetries=symmetries, **STILL)
    n = len(SYMMETRIES[symmetries])
    views = tta_views(PIXELS, b"a", spec, 2 * n)
    assert len({view.tobytes() for view in views[:n]}) == n
    assert len({view.tobytes() for view in views}) == n


def test_zoom_and_light_stay_within_their_limits() -> None:
    spec = TtaSpec(symmetries="none", max_zoom=1.2, lighting=0.1)
    views = tta_views(PIXELS, b"a", spec, 16)
    shift = np.abs(views[1:].astype(float).mean(axis=(1, 2, 3)) - PIXELS.mean())
    assert 0 < shift.max() < 0.1 * 255 + 0.1 * 127.5
