"""Writes what Pillow and torchvision make of images, for the tests of crates/data.

    python parity/images.py [PHOTOS]

Every image is made here, from formulas. Into `parity/fixtures/images/` go

  *.jpg, *.png, ...     one small file for each format and mode that Pillow reads
  *.rgb.z               the pixels of a few, deflated
  decoded.json          of each file: size and CRC-32 of `Image.open(f).convert("RGB")`, but for what docs/decoders.md departs in
  upright.json          of each file with an EXIF orientation: size and CRC-32 after `ImageOps.exif_transpose`
  resized.json          CRC-32 of `Image.resize` for many sizes and both filters
  transformed.json      CRC-32 of torchvision's `ImageClassification` preset, as u8 after the crop and as f32 at the end
  photos.txt            with PHOTOS, a folder of photos: of each photo the CRC-32 of its pixels and of its 224 x 224 crop

Needs Pillow 13, torchvision 0.29, numpy.
"""

import io
import json
import random
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification
from torchvision.transforms import functional as F

OUT = Path(__file__).parent / "fixtures" / "images"
WIDTH, HEIGHT = 25, 18
# Files that the Rust side may decode one grey level off: their pixels are written too.
CLOSE = ("555.bmp", "565.bmp", "max100.pgm", "max1000.ppm")


def crc(data):
    return f"{zlib.crc32(bytes(data)):08x}"


def scene(width=WIDTH, height=HEIGHT, channels=3, top=255):
    """A gradient with a disc and some noise, values 0..=top."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    rng = np.random.default_rng(7)
    planes = []
    for c in range(channels):
        plane = x / width * (0.9 - 0.2 * c) + y / height * 0.3 * c
        plane += 0.4 * (np.hypot(x - width * 0.6, y - height * 0.4) < height * 0.3) * (c != 1)
        plane += rng.normal(0, 0.02, plane.shape)
        planes.append(plane)
    return np.clip(np.stack(planes, -1) * top, 0, top).round()


def rgb(**size):
    return Image.fromarray(scene(**size).astype(np.uint8), "RGB")


def grey():
    return rgb().convert("L")


def rgba():
    return Image.fromarray(scene(channels=4).astype(np.uint8), "RGBA")


def encode(image, form, **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def oriented(turn):
    exif = Image.Exif()
    exif[274] = turn
    return {"exif": exif.tobytes()}


def profile(name):
    """No more of an ICC profile than its name, as UTF-16 (version 4)."""
    text = name.encode("utf-16-be")
    description = b"mluc" + struct.pack(">IIIHHII", 0, 1, 12, 0x656E, 0x5553, len(text), 28) + text
    tags = struct.pack(">I4sII", 1, b"desc", 144, len(description))
    header = struct.pack(">I4sI", 144 + len(description), b"test", 0x04000000) + b"mntrRGB XYZ " + bytes(12) + b"acsp"
    return header.ljust(128, b"\0") + tags + description


def jpegs():
    for turn in range(1, 9):
        yield f"orientation{turn}.jpg", encode(rgb(width=9, height=6), "JPEG", quality=90, **oriented(turn))
    yield "profile_srgb.jpg", encode(rgb(), "JPEG", quality=85, icc_profile=profile("sRGB IEC61966-2.1"))
    yield "profile_p3.jpg", encode(rgb(), "JPEG", quality=85, icc_profile=profile("Display P3"))
    yield "rgb420.jpg", encode(rgb(), "JPEG", quality=85)
    yield "rgb422.jpg", encode(rgb(), "JPEG", quality=85, subsampling="4:2:2")
    yield "rgb444.jpg", encode(rgb(), "JPEG", quality=95, subsampling="4:4:4")
    yield "quality5.jpg", encode(rgb(), "JPEG", quality=5)
    yield "quality100.jpg", encode(rgb(), "JPEG", quality=100)
    yield "progressive.jpg", encode(rgb(), "JPEG", quality=80, progressive=True)
    yield "progressive444.jpg", encode(rgb(), "JPEG", quality=80, progressive=True, subsampling=0)
    yield "restart.jpg", encode(rgb(), "JPEG", quality=80, restart_marker_blocks=2)
    yield "grey.jpg", encode(grey(), "JPEG", quality=85)
    yield "grey_progressive.jpg", encode(grey(), "JPEG", quality=85, progressive=True)
    yield "keep_rgb.jpg", encode(rgb(), "JPEG", quality=85, keep_rgb=True)
    yield "one_pixel.jpg", encode(rgb(width=1, height=1), "JPEG")
    yield "wide.jpg", encode(rgb(width=300, height=2), "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "exif_rotated.jpg", encode(rgb(), "JPEG", exif=exif)
    cmyk = Image.fromarray(scene(channels=4).astype(np.uint8), "CMYK")
    adobe = encode(cmyk, "JPEG", quality=90)
    yield "cmyk.jpg", adobe
    marker = adobe.index(b"\xff\xee\x00\x0eAdobe")
    yield "ycck.jpg", adobe[: marker + 15] + b"\x02" + adobe[marker + 16 :]
    yield "cmyk_no_adobe.jpg", adobe[:marker] + adobe[marker + 16 :]
    plain = encode(rgb(), "JPEG", quality=70)
    yield "rubbish_after_end.jpg", plain + b"rubbish" * 20
    yield "rubbish_between_markers.jpg", plain[:20] + b"\x01\x02\x03\x04" + plain[20:]


def png(colour, bits, rows, *chunks, interlaced=False):
    """A PNG of any colour type and depth; Pillow cannot write them all."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def packed(line):
        flat = line.reshape(-1).astype(np.uint16)
        if bits == 16:
            return flat.astype(">u2").tobytes()
        if bits == 8:
            return flat.astype(np.uint8).tobytes()
        spread = (flat[:, None] >> np.arange(bits - 1, -1, -1)) & 1
        return np.packbits(spread.reshape(-1)).tobytes()

    height, width = rows.shape[:2]
    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    passes = adam7 if interlaced else [(0, 0, 1, 1)]
    parts = [rows[y::dy, x::dx] for x, y, dx, dy in passes]
    raw = b"".join(b"\0" + packed(line) for part in parts if part.size for line in part)
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, int(interlaced))
    body = b"".join(chunk(kind, data) for kind, data in chunks)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")


def pngs():
    def levels(channels, bits):
        return scene(channels=channels, top=2**bits - 1)

    palette = np.random.default_rng(3).integers(0, 256, (256, 3)).astype(np.uint8)
    yield "rgb.png", encode(rgb(), "PNG")
    yield "rgb_interlaced.png", png(2, 8, levels(3, 8), interlaced=True)
    yield "rgb_trns.png", png(2, 8, levels(3, 8), (b"tRNS", struct.pack(">3H", 10, 20, 30)))
    yield "rgb16.png", png(2, 16, levels(3, 16))
    yield "rgba.png", encode(rgba(), "PNG")
    yield "rgba16.png", png(6, 16, levels(4, 16))
    yield "la.png", encode(rgba().convert("LA"), "PNG")
    yield "la16.png", png(4, 16, levels(2, 16))
    for bits in (1, 2, 4, 8, 16):
        yield f"grey{bits}.png", png(0, bits, levels(1, bits))
    yield "grey8_trns.png", png(0, 8, levels(1, 8), (b"tRNS", struct.pack(">H", 0)))
    yield "grey16_trns.png", png(0, 16, levels(1, 16), (b"tRNS", struct.pack(">H", 0)))
    yield "grey16_dark.png", png(0, 16, levels(1, 9))
    for bits in (1, 2, 4, 8):
        yield f"palette{bits}.png", png(3, bits, levels(1, bits), (b"PLTE", palette[: 2**bits].tobytes()))
    yield "palette8_trns.png", png(3, 8, levels(1, 8), (b"PLTE", palette.tobytes()), (b"tRNS", bytes(range(0, 250, 5))))
    yield "palette8_short.png", png(3, 8, levels(1, 8), (b"PLTE", palette[:100].tobytes()))
    for turn in range(2, 9):
        yield f"orientation{turn}.png", encode(rgb(width=9, height=6), "PNG", **oriented(turn))
    yield "animated.png", encode(rgb(), "PNG", save_all=True, append_images=[rgb().rotate(90)])
    yield "opaque.png", encode(rgb().convert("RGBA"), "PNG")
    yield "profile_p3.png", encode(rgb(), "PNG", icc_profile=profile("Display P3"))
    yield "gamma.png", png(2, 8, levels(3, 8), (b"gAMA", struct.pack(">I", 100000)))


def bmp(bits, rows, masks=(), palette=b"", top_down=False):
    """A BMP of 4, 16 or 32 bits, which Pillow does not write."""
    height = rows.shape[0]
    if bits == 4:
        lines = [np.packbits(((line[:, None] >> np.arange(3, -1, -1)) & 1).reshape(-1)).tobytes() for line in rows]
    else:
        lines = [line.astype(f"<u{bits // 8}").tobytes() for line in rows]
    lines = [line + b"\0" * (-len(line) % 4) for line in lines]
    raster = b"".join(lines if top_down else lines[::-1])
    extra = b"".join(struct.pack("<I", mask) for mask in masks) + palette
    size = (rows.shape[1], -height if top_down else height)
    kind = (1, bits, 3 if masks else 0, len(raster), 0, 0, len(palette) // 4, 0)
    info = struct.pack("<IiiHHIIiiII", 40, *size, *kind)
    offset = 14 + len(info) + len(extra)
    return struct.pack("<2sIHHI", b"BM", offset + len(raster), 0, 0, offset) + info + extra + raster


def bmps():
    colour = scene().astype(np.uint32)
    red, green, blue = colour[..., 0], colour[..., 1], colour[..., 2]
    yield "rgb.bmp", encode(rgb(), "BMP")
    yield "grey.bmp", encode(grey(), "BMP")
    yield "one_bit.bmp", encode(rgb().convert("1"), "BMP")
    yield "palette.bmp", encode(rgb().quantize(64), "BMP")
    yield "rgba.bmp", encode(rgba(), "BMP")
    yield "555.bmp", bmp(16, red >> 3 << 10 | green >> 3 << 5 | blue >> 3)
    yield "565.bmp", bmp(16, red >> 3 << 11 | green >> 2 << 5 | blue >> 3, (0xF800, 0x7E0, 0x1F))
    yield "32_top_down.bmp", bmp(32, red << 16 | green << 8 | blue, top_down=True)
    sixteen = np.random.default_rng(5).integers(0, 256, (16, 4)).astype(np.uint8)
    yield "palette4.bmp", bmp(4, red >> 4, palette=sixteen.tobytes())


def gifs():
    indexed = rgb().quantize(32)
    yield "palette.gif", encode(indexed, "GIF", interlace=0)
    yield "interlaced.gif", encode(indexed, "GIF", interlace=1)
    yield "transparent.gif", encode(indexed, "GIF", transparency=5)
    yield "grey.gif", encode(grey(), "GIF")
    yield "animated.gif", encode(indexed, "GIF", save_all=True, append_images=[rgb().rotate(90).quantize(32)])
    whole = encode(rgb().quantize(32), "GIF", transparency=5)
    opaque = encode(rgb().quantize(32), "GIF")
    larger = struct.pack("<HH", WIDTH + 9, HEIGHT + 5)
    for name, data in (("canvas.gif", opaque), ("canvas_transparent.gif", whole)):
        frame = data.index(b",\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT))
        data = data[:6] + larger + data[10 : frame + 1] + struct.pack("<HH", 4, 3) + data[frame + 5 :]
        yield name, data
    smaller = struct.pack("<HH", WIDTH - 9, HEIGHT - 5)
    yield "frame_over_canvas.gif", opaque[:6] + smaller + opaque[10:]


def tiff(order, width, height, bits, photometric, data, *tags):
    """An uncompressed one-strip TIFF of 16-bit samples and the like, which Pillow does not write."""
    samples = len(bits)
    more = struct.pack(f"{order}{samples}H", *bits)
    entries = {256: (3, 1, width), 257: (3, 1, height), 258: (3, samples, None), 259: (3, 1, 1), 262: (3, 1, photometric)}
    entries |= {273: (4, 1, None), 277: (3, 1, samples), 278: (3, 1, height), 279: (4, 1, len(data))} | dict(tags)
    start = 8 + 2 + 12 * len(entries) + 4
    entries[258] = (3, samples, bits[0]) if samples < 3 else (4, samples, start)
    entries[273] = (4, 1, start + len(more))
    table = b""
    for tag, (kind, count, value) in sorted(entries.items()):
        kind, size = (3, "I") if tag == 258 and samples > 2 else (kind, "HH" if kind == 3 else "I")
        value = [value, value if tag == 258 and samples == 2 else 0] if size == "HH" else [value]
        table += struct.pack(f"{order}HHI{size}", tag, kind, count, *value)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(entries)) + table + struct.pack(f"{order}I", 0) + more + data


def tiffs():
    wide = scene(top=65535).astype(np.uint16)
    size = (WIDTH, HEIGHT)
    for name, compression in (("raw", None), ("lzw", "tiff_lzw"), ("deflate", "tiff_adobe_deflate"), ("packbits", "packbits")):
        yield f"rgb_{name}.tif", encode(rgb(), "TIFF", compression=compression)
    yield "rgb_lzw_predictor.tif", encode(rgb(), "TIFF", compression="tiff_lzw", tiffinfo={317: 2})
    yield "rgb_strips.tif", encode(rgb(), "TIFF", compression="tiff_lzw", strip_size=WIDTH * 3 * 7)
    yield "grey.tif", encode(grey(), "TIFF")
    yield "one_bit.tif", encode(rgb().convert("1"), "TIFF")
    yield "one_bit_fax.tif", encode(rgb().convert("1"), "TIFF", compression="group4")
    yield "rgba.tif", encode(rgba(), "TIFF")
    associated = np.minimum(scene(channels=4), scene(channels=4)[..., 3:]).astype(np.uint8)
    yield "rgba_associated.tif", tiff("<", *size, (8, 8, 8, 8), 2, associated.tobytes(), (338, (3, 1, 1)))
    yield "la.tif", encode(rgba().convert("LA"), "TIFF")
    yield "cmyk.tif", encode(Image.fromarray(scene(channels=4).astype(np.uint8), "CMYK"), "TIFF", compression="tiff_lzw")
    yield "grey16.tif", tiff("<", *size, (16,), 1, wide[..., 0].astype("<u2").tobytes())
    yield "grey16_dark.tif", tiff("<", *size, (16,), 1, (wide[..., 0] >> 7).astype("<u2").tobytes())
    yield "grey16_big_endian.tif", tiff(">", *size, (16,), 1, wide[..., 0].astype(">u2").tobytes())
    levels = scene(channels=1)[..., 0].astype(np.float32)
    yield "grey_float.tif", encode(Image.fromarray(levels * 0.98 + 0.3, "F"), "TIFF")
    yield "grey_float_fraction.tif", encode(Image.fromarray(levels / 255, "F"), "TIFF")
    yield "grey_inverted.tif", tiff("<", *size, (8,), 0, scene(channels=1).astype(np.uint8).tobytes())
    yield "rgb16.tif", tiff("<", *size, (16, 16, 16), 2, wide.astype("<u2").tobytes())
    yield "rgb16_big_endian.tif", tiff(">", *size, (16, 16, 16), 2, wide.astype(">u2").tobytes())
    yield "profile_p3.tif", encode(rgb(), "TIFF", icc_profile=profile("Display P3"))
    yield "two_pages.tif", encode(rgb(), "TIFF", save_all=True, append_images=[grey()])
    for turn in range(2, 9):
        yield f"orientation{turn}.tif", encode(rgb(width=9, height=6), "TIFF", tiffinfo={274: turn})


def webps():
    yield "lossy.webp", encode(rgb(), "WEBP", quality=80)
    yield "lossy_quality5.webp", encode(rgb(), "WEBP", quality=5)
    yield "lossy_large.webp", encode(rgb(width=70, height=45), "WEBP", quality=90)
    yield "lossy_alpha.webp", encode(rgba(), "WEBP", quality=80)
    yield "lossless.webp", encode(rgb(), "WEBP", lossless=True)
    yield "lossless_alpha.webp", encode(rgba(), "WEBP", lossless=True, exact=True)
    for turn in range(2, 9):
        yield f"orientation{turn}.webp", encode(rgb(width=9, height=6), "WEBP", lossless=True, **oriented(turn))
    yield "profile_p3.webp", encode(rgb(), "WEBP", lossless=True, icc_profile=profile("Display P3"))
    yield "animated.webp", encode(rgb(), "WEBP", lossless=True, save_all=True, append_images=[rgb().rotate(90)])


def pnms():
    colour, one = scene().astype(int), scene(channels=1).astype(int)
    header = f"{WIDTH} {HEIGHT}\n"
    text = lambda values: " ".join(map(str, values.reshape(-1))).encode()
    yield "rgb.ppm", encode(rgb(), "PPM")
    yield "grey.pgm", encode(grey(), "PPM")
    yield "one_bit.pbm", encode(rgb().convert("1"), "PPM")
    yield "plain.pbm", f"P1\n# a comment\n{header}".encode() + text(one // 128)
    yield "plain.pgm", f"P2\n{header}255\n".encode() + text(one)
    yield "plain.ppm", f"P3\n{header}255\n".encode() + text(colour)
    yield "max100.pgm", f"P5\n{header}100\n".encode() + (one * 100 // 255).astype(np.uint8).tobytes()
    yield "max1000.ppm", f"P6\n{header}1000\n".encode() + (colour * 1000 // 255).astype(">u2").tobytes()
    yield "max4095.pgm", f"P5\n{header}4095\n".encode() + (one * 16).astype(">u2").tobytes()
    yield "max65535.pgm", f"P5\n{header}65535\n".encode() + (one * 257).astype(">u2").tobytes()
    yield "max65535.ppm", f"P6\n{header}65535\n".encode() + (colour * 257).astype(">u2").tobytes()


def decoded(data):
    """As Pillow converts it, but for what docs/decoders.md names."""
    image = Image.open(io.BytesIO(data))
    if image.format == "TIFF":
        image.load_end = lambda: None  # It would turn the picture.
    if not (image.mode.startswith("I") or image.mode == "F"):
        return image.convert("RGB")
    values = np.asarray(image)
    if image.mode == "F":
        values = (values * 255).round() if values.max() <= 1 else values
    elif image.format == "PPM":
        values = (values.astype(np.uint32) * 255 + 32767) // 65535
    else:
        values = values.astype(np.uint32) >> 8
    return Image.fromarray(values.astype(np.uint8), "L").convert("RGB")


def write_decoded():
    expected, upright = [], []
    for family in (jpegs, pngs, bmps, gifs, tiffs, webps, pnms):
        for name, data in family():
            (OUT / name).write_bytes(data)
            image = decoded(data)
            expected.append([name, *image.size, crc(image.tobytes())])
            if name in CLOSE:
                (OUT / f"{name}.rgb.z").write_bytes(zlib.compress(image.tobytes(), 9))
            if name.startswith("orientation"):
                image = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
                upright.append([name, *image.size, crc(image.tobytes())])
    write_rows("decoded.json", expected)
    write_rows("upright.json", upright)


def pattern(width, height):
    """Pixels that the Rust tests compute alike: a linear congruential sequence laid over a gradient."""
    state, pixels = 12345, bytearray()
    for i in range(width * height * 3):
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        pixels.append(((state >> 16) % 96 + i * 160 // (width * height * 3)) & 255)
    return Image.frombytes("RGB", (width, height), bytes(pixels))


FILTERS = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}


def write_resized():
    random.seed(11)
    sizes = [((50, 37), (50, 37)), ((50, 37), (50, 20)), ((50, 37), (25, 37)), ((1, 1), (8, 5)), ((7, 1), (3, 9))]
    sizes += [((1, 9), (4, 4)), ((97, 61), (34, 22)), ((33, 20), (100, 61)), ((200, 3), (7, 7)), ((130, 90), (1, 1))]
    sizes += [((40, 100), (35, 89)), ((40, 100), (35, 90)), ((40, 30), (45, 29))]
    sizes += [((64, 48), (32, 24)), ((31, 57), (62, 114)), ((500, 375), (341, 256)), ((301, 449), (256, 381))]
    for _ in range(30):
        sizes.append(tuple((random.randint(1, 120), random.randint(1, 120)) for _ in range(2)))
    rows = []
    for source, target in sizes:
        for name, mode in FILTERS.items():
            resized = pattern(*source).resize(target, getattr(Image.Resampling, name.upper()))
            rows.append([name, *source, *target, crc(resized.tobytes())])
    write_rows("resized.json", rows)


def write_transformed():
    rows = []
    sources = [(50, 37), (37, 50), (1, 1), (300, 2), (2, 300), (64, 64), (255, 256), (101, 77), (333, 251), (90, 290)]
    shapes = [(64, 56), (56, 56), (33, 32), (40, 48), (24, 41), (32, 17)]
    for width, height in sources:
        for resize, crop in shapes:
            for name, mode in FILTERS.items():
                image = pattern(width, height)
                pixels = F.center_crop(F.resize(image, resize, mode, antialias=True), crop)
                preset = ImageClassification(crop_size=crop, resize_size=resize, interpolation=mode)
                rows.append([name, width, height, resize, crop, crc(pixels.tobytes()), crc(preset(image).numpy().tobytes())])
    write_rows("transformed.json", rows)


def write_rows(name, rows):
    (OUT / name).write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")


def write_photos(folder):
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in (".jpg", ".jpeg", ".png"):
            continue
        image = Image.open(path).convert("RGB")
        cropped = F.center_crop(F.resize(image, 256, InterpolationMode.BILINEAR, antialias=True), 224)
        lines.append(f"{crc(image.tobytes())} {crc(cropped.tobytes())} {path.relative_to(folder).as_posix()}\n")
    (OUT / "photos.txt").write_text("".join(lines))


if __name__ == "__main__":
    OUT.mkdir(parents=True, exist_ok=True)
    write_decoded()
    write_resized()
    write_transformed()
    if len(sys.argv) > 1:
        write_photos(Path(sys.argv[1]))
