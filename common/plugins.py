"""Import objects of users by import string (``package.module:name``). This project does not need to change for them."""

import importlib
from typing import Any

from common.errors import ConfigError

# The extra of this project that installs each package.
_EXTRAS = {"torch": "cpu", "transformers": "cpu", "safetensors": "cpu", "vllm": "gpu", "av": "video"}


def import_object(path: str, *, what: str) -> Any:
    """Return the callable that ``path`` names. Raises ``ConfigError``. ``what`` describes the object in the message."""
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{what} {path!r}: cannot import {module_name!r}: {error}; {_advise(error)}") from error
    found = getattr(module, name, None)
    if not callable(found):
        problem = "is not callable" if hasattr(module, name) else "does not exist"
        raise ConfigError(f"{what} {path!r}: {name!r} {problem} in {module_name!r}")
    return found


def _advise(error: ImportError) -> str:
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    return f"install it with: pip install 'vlm-fleet[{extra}]'" if extra else "install it, or add its folder to PYTHONPATH"
