"""Stream the elements of an array inside a large JSON file."""

from collections.abc import Iterator
from typing import Any

import ijson

from common.errors import ConfigError, explain_unreadable
from common.spec.models import DatasetSource
from producer.datasets.readers.lines import open_text, skip_bom


def iterate_items(source: DatasetSource, path: str, prefix: str) -> Iterator[Any]:
    """Yield the values at a prefix of a JSON file, such as ``images.item``, in constant memory.

    The file may be compressed. Raises ``ConfigError`` for a file that is not JSON.
    """
    try:
        with open_text(source.model_copy(update={"path": path})) as stream:
            skip_bom(stream)
            yield from ijson.items(stream, prefix, use_float=True)
    except ijson.JSONError as error:
        found = " ".join(str(error).split())[:200]
        raise ConfigError(f"dataset {source.name!r}: {path} is not JSON ({found}); restore the file") from None
    except UnicodeDecodeError:
        message = f"{path} has a lone surrogate such as \\ud800 in a text; expected text that UTF-8 can hold"
        raise ConfigError(f"dataset {source.name!r}: {message}") from None
    except OSError as error:
        message = f"dataset {source.name!r}: {path} cannot be read ({error.strerror}); expected a file"
        raise explain_unreadable(error, message) from None
