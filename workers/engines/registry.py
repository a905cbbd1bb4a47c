"""Load an engine by name. Its module is imported on demand, so that processes without an hf or vllm engine do not import torch."""

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

# Import strings of moved engines. The run id hashes the string in the profile, so the old strings must stay valid.
MOVED = {
    "workers.engines.echo_engine:EchoEngine": ENGINES["echo"],
    "workers.engines.hf_engine:HfEngine": ENGINES["hf"],
    "workers.engines.mmada_engine:MmadaEngine": "workers.engines.mmada:MmadaEngine",
    "workers.engines.openai_engine:OpenAIEngine": ENGINES["openai"],
    "workers.engines.vllm_engine:VllmEngine": ENGINES["vllm"],
}


def load_engine(profile: ModelProfile, weights: str) -> Engine:
    """Return the profile's engine. It is not started yet.

    ``profile.engine`` is a short name or an import string, ``package.module:Class``. The class takes
    ``(profile, weights)``. Raises ``ConfigError`` for an unknown name, a package that is not installed, and
    engine options that the engine does not accept.
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
