"""Base64 text of media: the spellings that are read, and the recognition of images without ``data:`` before them.

Base64 has several spellings (RFC 4648, RFC 2045): with line breaks, as in MIME; with ``-`` and ``_`` in place of ``+`` and ``/``;
and without the padding ``=`` at its end. All of them are unambiguous, so all of them are read.
"""

import re

from common.errors import SampleError

_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_ALL_CHARACTERS = _CHARACTERS + b"-_ \t\r\n"
_STANDARD = bytes.maketrans(b"-_", b"+/")
# PNG, JPEG, GIF, WebP and TIFF as base64. A path has a dot, which is not a character of base64.
_IMAGES = ("iVBORw0KGgo", "/9j/", "R0lGOD", "UklGR", "SUkqA", "TU0AK")
_SHORTEST = 64  # characters of an image
_NAME_LIMIT = 255  # characters of a file name on all common file systems
_TEXT = re.compile(r"[A-Za-z0-9+/=_-]+")
_GROUP = 4  # characters for three bytes


def standardize(payload: bytes) -> bytes:
    """Return base64 text with the standard characters and padding, and without white space."""
    compact = b"".join(payload.split()).translate(_STANDARD).rstrip(b"=")
    return compact + b"=" * (-len(compact) % _GROUP)


def is_base64_image(text: str) -> bool:
    """Return whether a text is the base64 text of an image, without ``data:`` before it.

    Raises ``SampleError`` for text that is neither a path nor base64 text of a known image, so that it is not reported as a missing
    file.
    """
    stripped = text.strip()
    if len(stripped) <= _SHORTEST or "." in stripped:
        return False
    if stripped.startswith(_IMAGES):
        check_characters(stripped.encode(), "the base64 text of an image")
        return True
    if "\n" in stripped or (len(stripped) > _NAME_LIMIT and _TEXT.fullmatch(stripped)):
        raise refuse_text(text)
    return False


def check_characters(payload: bytes, name: str) -> None:
    """Raise ``SampleError`` if a payload is empty or contains other characters than base64. ``name`` names it in the message."""
    strange = payload.translate(None, _ALL_CHARACTERS)
    if strange or not payload.strip():
        found = repr(strange[:8].decode("utf-8", "replace")) if strange else "nothing"
        raise SampleError("bad_media", f"found {found} in {name}; expected only base64 characters")


def refuse_text(text: str) -> SampleError:
    """Return the error for a text that is neither a path nor a URL nor base64 text of a known image."""
    found = f"{text[:24]!r}… ({len(text)} characters)"
    return SampleError("bad_media", f"found {found}; expected a path, a URL, or base64 behind data:image/png;base64,")
