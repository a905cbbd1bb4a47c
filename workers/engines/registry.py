"""Engines by name.  The engine's module is imported only when it is asked for, so that nobody pays for torch in vain."""

import importlib
from typing import cast

from common.errors import ConfigError
from common.spec import ModelProfile
from common.spec_files import suggest
from workers.engines.base import Engine

ENGINES = {
    "echo": "workers.engines.echo_engine:EchoEngine",
    "hf": "workers.engines.hf_engine:HfEngine",
    "openai": "workers.engines.openai_engine:OpenaiEngine",
    "vllm": "workers.engines.vllm_engine:VllmEngine",
}

_EXTRAS = {"torch": "cpu", "transformers": "cpu", "safetensors": "cpu", "vllm": "gpu", "openai": "openai"}


def load_engine(profile: ModelProfile, weights: str) -> Engine:
    """Return the profile's engine, not started yet.

    ``profile.engine`` is a short name or an import string, ``package.module:Class``; the class takes
    ``(profile, weights)``.  Raises ``ConfigError`` for a name that nobody knows, a package that is not installed and
    engine options that the engine does not take.
    """
    where = f"profile {profile.name}: engine"
    module_name, colon, class_name = ENGINES.get(profile.engine, profile.engine).partition(":")
    if not colon:
        known = sorted(ENGINES)
        raise ConfigError(
            f"{where}: unknown engine {profile.engine!r}{suggest(profile.engine, known)}; "
            f"known engines: {', '.join(known)}, or an import string such as my_package.my_engine:MyEngine"
        )
    try:
        engine_class = getattr(importlib.import_module(module_name), class_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{where}: {profile.engine!r} cannot be used: {_explain_missing(error)}") from error
    except AttributeError:
        raise ConfigError(f"{where}: the module {module_name!r} has no class {class_name!r}") from None
    return cast("Engine", engine_class(profile, weights))


def _explain_missing(error: ModuleNotFoundError) -> str:
    package = (error.name or "").partition(".")[0]
    if extra := _EXTRAS.get(package):
        return f"the package {package!r} is not installed; install it with: pip install 'vlm-fleet[{extra}]'"
    return f"there is no module {error.name!r}; check the spelling, or install the package that holds it"
