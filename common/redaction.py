"""Mask secrets in all output: logs, errors, records. Limit the length of messages and escape their control characters.

Secrets are credentials in URLs, values of environment variables with a secret name, keys of well-known formats, and values
under a name such as ``api_key`` in a mapping.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

MASK = "***"
MOST_CHARACTERS = 2000  # limit for messages; answers of a model are not shortened

# Shorter values are not masked. Otherwise ``SOME_KEY=1`` would mask every "1" in a log.
_SHORTEST_SECRET = 6
_SECRET_VARIABLE = re.compile(r".+_(KEY|TOKEN|SECRET|PASSWORD|AUTH)")
# Only access tokens: ``pad_token`` and ``max_tokens`` are not secrets.
_SECRET_FIELD = re.compile(
    r"(.*_)?(api_?key|access_?key|secret_?key|private_?key|secret|password|passwd|passphrase|authorization)"
    r"|((.*_)?(api|auth|access|bearer|session|hf|hub)_?)?token",
    re.IGNORECASE,
)
# With a colon, match up to the last @: a password that is not percent-encoded may contain @ and /. Our own messages contain
# ``:password@`` as the place of the password.
_USER_PART = re.compile(r"(?<=://)(?!:password@)(?:[^\s/@:\"'<>]*:([^\s\"'<>]*)|[^\s/@\"'<>]+)@")
_QUERY = re.compile(r"(://[^\s?#\"'<>]*)\?[^\s\"'<>)]*[^\s\"'<>),.:;]")
# C0 and C1 control characters, and the characters that change the direction of text.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_KEY_SHAPES = re.compile(
    r"\b(?:(?:sk-|hf_|gh[opsu]_|github_pat_|glpat-|xox[abp]-)[\w-]{16,}|AKIA[0-9A-Z]{16})\b|(?<=[Bb]earer )[\w.~+/=-]{8,}"
)


def mask_text(text: str, *, most: int = MOST_CHARACTERS) -> str:
    """Return a message in a form that is safe to log, store or display.

    ``***`` replaces every secret and every URL's credentials and query. Control characters other than line endings and tabs are
    escaped, because a terminal interprets them. In a text of more than ``most`` characters, the middle is removed.
    """
    window = 4 * most  # masking a text of megabytes takes minutes
    if len(text) <= window:
        head = tail = _mask_and_escape(text)
        if len(head) <= most:
            return head
    else:  # the cut can split a secret, and a split secret is not masked: remove the text next to the cut
        head, tail = _mask_and_escape(text[:window])[:-most], _mask_and_escape(text[-window:])[most:]
    end = tail[-most // 4 :]  # the end of an error states what to do
    return f"{head[: most - len(end) - 50]} … (cut, {len(text):,} characters) … {end}"


def mask_record(value: Any) -> Any:
    """Return a value of mappings, lists and texts with every secret masked. A value under a secret name is masked whole.

    Numbers, ``None`` and objects without a secret in their ``repr`` are returned unchanged. An object with a secret in its
    ``repr`` becomes the masked ``repr``.
    """
    return _mask_record(value, _read_secrets())


def find_secrets(value: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted path of every secret in a mapping: a value under a secret name, or text that looks like a secret."""
    if isinstance(value, Mapping | list | tuple):
        for name, entry in value.items() if isinstance(value, Mapping) else enumerate(value):
            here = f"{path}.{name}" if path else str(name)
            if _is_secret_name(name) and _is_given(entry):
                yield here
            else:
                yield from find_secrets(entry, here)
    elif isinstance(value, str) and (_USER_PART.search(value) or _KEY_SHAPES.search(value)):
        yield path


def _mask_and_escape(text: str) -> str:
    return _CONTROLS.sub(lambda found: ascii(found[0])[1:-1], _mask_text(text, _read_secrets()))


def _mask_text(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MASK)
    for pattern, masked in ((_USER_PART, f"{MASK}@"), (_QUERY, rf"\1?{MASK}"), (_KEY_SHAPES, MASK)):
        text = pattern.sub(masked, text)
    return text


def _mask_record(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _mask_text(value, secrets)
    if isinstance(value, Mapping):
        return {
            name: MASK if _is_secret_name(name) and _is_given(entry) else _mask_record(entry, secrets)
            for name, entry in value.items()
        }
    if isinstance(value, list | tuple):
        masked_entries = [_mask_record(entry, secrets) for entry in value]
        return tuple(masked_entries) if isinstance(value, tuple) else masked_entries
    if value is None or isinstance(value, bool | int | float):
        return value
    shown = repr(value)
    masked = _mask_text(shown, secrets)
    return value if masked == shown else masked


def _is_secret_name(name: object) -> bool:
    return _looks_secret(str(name))


@lru_cache(maxsize=1024)  # every log line has the same few names
def _looks_secret(name: str) -> bool:
    text = name.replace("-", "_")
    return bool(_SECRET_FIELD.fullmatch(text) or _SECRET_VARIABLE.fullmatch(text))


def _is_given(value: object) -> bool:
    return value not in (None, "") and not isinstance(value, bool)


def _read_secrets() -> Sequence[str]:
    """Return the secrets of this process's environment, longest first, in each spelling: plain, in a URL and in a ``repr``.

    Every log line uses this list. It is cached until the environment changes, so a secret that is set later is masked too.
    """
    return _spell_secrets(tuple(os.environ.items()))


@lru_cache(maxsize=1)
def _spell_secrets(environment: tuple[tuple[str, str], ...]) -> Sequence[str]:
    spelled = {
        form
        for name, value in environment
        for secret in _find_in_variable(name, value)
        for form in (secret, repr(secret)[1:-1], unquote(secret), quote(unquote(secret), safe=""))
    }
    return tuple(sorted((secret for secret in spelled if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True))


def _find_in_variable(name: str, value: str) -> Iterator[str]:
    if _SECRET_VARIABLE.fullmatch(name):
        yield value
    if name.endswith("_AUTH"):  # user:password, or a list of these
        yield from (entry.partition(":")[2] for entry in value.split(","))
    yield from filter(None, _USER_PART.findall(value))
