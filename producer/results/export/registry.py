"""The registry of export formats. A new format needs a module with a writer and a line in ``FORMATS``."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common.plugins import import_object
from producer.results.export.choices import Naming, TextField

if TYPE_CHECKING:
    from common.storage.run_record import PlannedRun
    from common.storage.store import Store
    from producer.results.export.exported import Exported

FORMATS = {"captions": "producer.results.export.captions:write_captions"}

Writer = Callable[["PlannedRun", "Store", Path, TextField, Naming], "Exported"]


def load_writer(name: str) -> Writer:
    """Return the writer of the format ``name``, a key of ``FORMATS``.

    A writer takes a run, its store, the output folder, and the text field and naming that the user has chosen. It raises
    ``ConfigError`` if it cannot write.
    """
    writer: Writer = import_object(FORMATS[name], what="export format")
    return writer
