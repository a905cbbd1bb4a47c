"""Engines by name.  The engine's module is imported only when it is asked for, so that nobody pays for torch in vain."""

from common.errors import ConfigError
from common.plugins import import_object
from common.spec.models import ModelProfile
from common.spelling import suggest
from workers.engines.base import Engine

ENGINES = {
    "echo": "workers.engines.echo:EchoEngine",
    "hf": "workers.engines.hf.engine:HfEngine",
    "openai": "workers.engines.openai.engine:OpenAIEngine",
    "vllm": "workers.engines.vllm:VllmEngine",
}

# Import strings of moved engines. Run ids cover the string in a profile, so old strings must stay valid.
MOVED = {
    "workers.engines.echo_engine:EchoEngine": ENGINES["echo"],
    "workers.engines.hf_engine:HfEngine": ENGINES["hf"],
    "workers.engines.mmada_engine:MmadaEngine": "workers.engines.mmada:MmadaEngine",
    "workers.engines.openai_engine:OpenAIEngine": ENGINES["openai"],
    "workers.engines.vllm_engine:VllmEngine": ENGINES["vllm"],
}


def load_engine(profile: ModelProfile, weights: str) -> Engine:
    """Return the profile's engine, not started yet.

    ``profile.engine`` is a short name or an import string, ``package.module:Class``; the class takes
    ``(profile, weights)``.  Raises ``ConfigError`` for a name that nobody knows, a package that is not installed and
    engine options that the engine does not take.
    """
    path = ENGINES.get(profile.engine) or MOVED.get(profile.engine, profile.engine)
    if ":" not in path:
        known = sorted(ENGINES)
        raise ConfigError(
            f"profile {profile.name}: engine: unknown engine {profile.engine!r}{suggest(profile.engine, known)}; "
            f"known engines: {', '.join(known)}, or an import string such as my_package.my_engine:MyEngine"
        )
    engine: Engine = import_object(path, what=f"profile {profile.name}: engine")(profile, weights)
    return engine
