"""Damaged images, unusual images, and files that are not images."""

from collections.abc import Callable

from tests.support.faults.bad_input import pictures
from tests.support.faults.bad_input.cases import RowCase
from tests.support.faults.bad_input.contents import file, make_asking

_UNKNOWN = "{name}: not an image in a known format; expected one of PNG, JPEG, …"
_DAMAGED = "{name}: cannot be decoded: …; replace the image"
_CUT = "{name}: cannot be decoded: OSError: image file is truncated…; replace the image"
_TOO_MANY = "{name}: it has …pixels…; scale the image down"
_RED = "8x6 #ff0000"


def _refuse(name: str, given: str, content: Callable[[], bytes], message: str, *, to: str, code: str = "media_corrupt") -> RowCase:
    message = message.replace("{name}", f"…/{to}")
    return RowCase(name, given, code, message, make_asking(to), prepare=file(to, content))


def _accept(name: str, given: str, content: Callable[[], bytes], note: str, *, to: str, seen: str = _RED) -> RowCase:
    return RowCase(name, given, "ok", note, make_asking(to), prepare=file(to, content), seen=seen)


REFUSED = (
    _refuse("corrupt PNG", "a PNG with bytes overwritten in its middle", pictures.overwrite("PNG"), _DAMAGED, to="scan.png"),
    _refuse("truncated PNG", "the first half of a PNG", pictures.cut("PNG"), _CUT, to="half.png"),
    _refuse("truncated JPEG", "the first half of a JPEG", pictures.cut("JPEG"), _CUT, to="half.jpg"),
    _refuse("truncated GIF", "the first half of a GIF", pictures.cut("GIF"), _CUT, to="half.gif"),
    _refuse("truncated WebP", "the first half of a WebP", pictures.cut("WEBP", lossless=True), _DAMAGED, to="half.webp"),
    _refuse("truncated TIFF", "the first half of a TIFF", pictures.cut("TIFF"), _DAMAGED, to="half.tif"),
    _refuse(
        "interlaced truncated PNG",
        "an interlaced PNG that ends in its last pass",
        pictures.make_interlaced_cut,
        _CUT,
        to="half.png",
    ),
    _refuse("JPEG of four bytes", "a JPEG's first four bytes", lambda: pictures.plain("JPEG")()[:4], _UNKNOWN, to="start.jpg"),
    _refuse("zero-byte file", "an empty file", bytes, "{name}: it is empty (0 bytes); expected an image", to="empty.png"),
    _refuse("GIF without frames", "a GIF that ends after its header", pictures.make_gif_without_frames, _UNKNOWN, to="none.gif"),
    _refuse("PNG of zero width", "a PNG of 0 x 5 pixels", lambda: pictures.craft_png(0, 5), _UNKNOWN, to="thin.png"),
    _refuse(
        "30 000 x 30 000 pixels",
        "a PNG of a few bytes that unpacks to 900 million pixels",
        pictures.huge_square,
        _TOO_MANY,
        to="huge.png",
        code="media_too_large",
    ),
    _refuse(
        "just over the pixel limit",
        "a PNG of 8 001 x 8 001 pixels",
        lambda: pictures.craft_png(8001, 8001),
        "{name}: it has 8001 x 8001 pixels, but at most 64000000 are allowed; scale the image down",
        to="large.png",
        code="media_too_large",
    ),
    _refuse(
        "decompression bomb",
        "a PNG of 80 kB whose comment unpacks to 80 MB",
        pictures.make_text_bomb,
        "{name}: cannot be decoded: ValueError: Decompressed data too large…; replace the image",
        to="bomb.png",
    ),
    _refuse(
        "BMP with a wrong header",
        "a small BMP whose header gives 4 000 x 4 000 pixels",
        pictures.make_lying_bmp(4000, 4000),
        _CUT,
        to="lie.bmp",
    ),
    _refuse(
        "BMP of negative width",
        "a BMP that is -5 pixels wide",
        pictures.make_lying_bmp(-5, 6),
        _TOO_MANY,
        to="minus.bmp",
        code="media_too_large",
    ),
    _refuse("SVG", "a drawing in SVG", lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', _UNKNOWN, to="drawing.svg"),
    _refuse(
        "HTML named .jpg",
        "a web page with an error 404, saved as an image",
        lambda: b"<!DOCTYPE html><html>404</html>",
        _UNKNOWN,
        to="photo.jpg",
    ),
    _refuse("PDF named .png", "a PDF", lambda: b"%PDF-1.7\n%\xe2\xe3\n", _UNKNOWN, to="page.png"),
    _refuse(
        "EPS",
        "a PostScript image, which only Ghostscript can render",
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\nshowpage\n",
        _UNKNOWN,
        to="plot.eps",
    ),
    _refuse("zip named .png", "an archive", lambda: b"PK\x03\x04" + bytes(40), _UNKNOWN, to="pictures.png"),
)

ACCEPTED = (
    _accept(
        "wrong extension",
        "a PNG named `.jpg`",
        pictures.plain("PNG"),
        "the format comes from the content, not the name",
        to="photo.jpg",
    ),
    _accept("1 x 1 pixel", "a PNG of one pixel", pictures.plain(size=(1, 1)), "used unchanged", to="dot.png", seen="1x1 #ff0000"),
    _accept("animated GIF", "a GIF of three frames", pictures.animate("GIF"), "the first frame is used", to="moving.gif"),
    _accept("animated PNG", "a PNG of three frames", pictures.animate("PNG"), "the first frame is used", to="moving.png"),
    _accept(
        "animated WebP",
        "a WebP of three frames",
        pictures.animate("WEBP"),
        "the first frame is used",
        to="m.webp",
        seen="8x6 …",
    ),
    _accept("TIFF of 50 pages", "a TIFF of 50 pages", pictures.animate("TIFF", 50), "the first page is used", to="pages.tif"),
    _accept(
        "CMYK",
        "a CMYK JPEG, as for print",
        pictures.plain("JPEG", "CMYK"),
        "converted to RGB",
        to="print.jpg",
        seen="8x6 #f…",
    ),
    _accept(
        "16-bit", "a PNG of 16-bit greys", pictures.make_16_bit, "scaled to 8 bits, not clipped", to="x.png", seen="8x6 #646464"
    ),
    _accept(
        "12-bit",
        "a PNG of 12-bit greys in 16 bits, as in radiographs",
        pictures.make_12_bit,
        "scaled from the smallest of 8, 10, 12, 14 and 16 bits that holds its brightest grey",
        to="chest.png",
        seen="8x6 #808080",
    ),
    _accept(
        "not-a-number pixels", "a TIFF of floats, all NaN", pictures.make_float, "NaN is black", to="nan.tif", seen="8x6 #000000"
    ),
    _accept("palette", "a PNG with a palette", pictures.plain("PNG", "P"), "converted to RGB", to="palette.png"),
    _accept("one bit", "a PNG of black and white", pictures.plain("PNG", "1"), "converted to RGB", to="fax.png", seen="8x6 #…"),
    _accept(
        "transparent",
        "a PNG without a visible pixel",
        pictures.make_transparent,
        "put on a white background",
        to="glass.png",
        seen="8x6 #ffffff",
    ),
    _accept(
        "EXIF rotated",
        "a rotated photo with an EXIF orientation",
        pictures.make_turned,
        "turned upright",
        to="phone.png",
        seen="6x8 #ff0000",
    ),
    _accept("huge EXIF", "a PNG with 60 kB of EXIF", pictures.make_huge_exif, "EXIF is ignored", to="camera.png"),
    _accept(
        "broken EXIF",
        "a JPEG with an EXIF block of garbage",
        pictures.make_broken_exif,
        "EXIF is ignored",
        to="c.jpg",
        seen="8x6 #fe0000",
    ),
    _accept(
        "trailing garbage",
        "a JPEG with other bytes after its end",
        pictures.make_with_trailing_garbage,
        "the image is used, and the other bytes are ignored",
        to="tail.jpg",
        seen="8x6 #fe0000",
    ),
    _accept(
        "more pixels than its size",
        "a PNG of 8 x 8 pixels with 50 MB of pixels packed into it",
        pictures.make_pixel_bomb,
        "only the header's number of pixels is decompressed",
        to="bomb.png",
        seen="8x8 #000000",
    ),
    _accept(
        "corrupt JPEG",
        "a JPEG with bytes overwritten in its middle",
        pictures.overwrite("JPEG"),
        "JPEG has no checksums: the part that can be decoded is used",
        to="scan.jpg",
        seen="64x48 #…",
    ),
)
