"""Media from object storage: check that an object is in an allowed folder, and read it or a byte range of it.

As with files, the author of a dataset is usually not the operator of the worker. Without allowed folders, a row could name any
object that the credentials of the worker can read.
"""

from collections.abc import Sequence

from common.errors import IntegrityError, SampleError
from common.storage.addresses import is_below
from common.storage.remote_files import read_remote
from workers.media.files import check_range, make_forbidden


def read_object(address: str, offset: int, length: int | None, name: str, *, roots: Sequence[str], max_bytes: int) -> bytes:
    """Return ``length`` bytes of an object from ``offset``, or all bytes to its end if ``length`` is ``None``.

    ``name`` names the object in error messages. Raises ``SampleError`` with the codes of ``read_file``. Raises ``TransientError``
    if the storage does not answer, and ``ConfigError`` if it refuses the credentials of this worker.
    """
    if not any(is_below(address, root) for root in roots):
        raise make_forbidden(name, roots)

    def check_size(size: int) -> None:
        available = max(0, size - offset)
        check_range(available if length is None else length, available, name, max_bytes)

    if length is not None and (length == 0 or length > max_bytes):
        check_range(length, length, name, max_bytes)
        return b""
    try:
        return read_remote(address, offset, length, check_size)
    except FileNotFoundError as error:
        message = f"{name}: {error.strerror}; check the path in the dataset, or set media_root to the folder of the images"
        raise SampleError("media_missing", message) from None
    except OSError as error:
        message = f"{name}: cannot be read: {error.strerror}; check the address and its permissions"
        raise SampleError("media_unreadable", message) from error
    except IntegrityError as error:
        message = f"{name}: the object ends before the range; restore the object that the run was planned with"
        raise SampleError("media_corrupt", message) from error
