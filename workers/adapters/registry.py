"""Load a built-in adapter by short name, or your own adapter by import string (``package.module:Class``).

========  ======================================  ======================================================
adapter   families                                recommended first validators of their profiles
========  ======================================  ======================================================
chat      LLaVA, Gemini, any plain chat template  non_empty, no_refusal, answer_extractable
idefics   Idefics2, Idefics3, SmolVLM             non_empty, no_refusal, answer_extractable
qwen      Qwen2.5-VL, Qwen3-VL                    non_empty, answer_extractable
internvl  InternVL 2 to 3.5                       non_empty, no_refusal
glm4v     GLM-4.1V, GLM-4.5V                      non_empty, answer_extractable, no_repetition, finished
mmada     MMaDA                                   non_empty, no_image_token
thyme     Thyme                                   non_empty, answer_extractable
========  ======================================  ======================================================

``internvl_thinking`` asks InternVL to think before it answers. ``glm4v_direct`` disables GLM-4.5V's thinking.
"""

import inspect

from common.answers.validators import IMPORT_STRING
from common.errors import ConfigError
from common.plugins import import_object
from common.spelling import suggest
from workers.adapters.base import Adapter

ADAPTERS = {
    "chat": "workers.adapters.chat:ChatAdapter",
    "glm4v": "workers.adapters.glm4v:Glm4vAdapter",
    "glm4v_direct": "workers.adapters.glm4v:Glm4vDirectAdapter",
    "idefics": "workers.adapters.idefics:IdeficsAdapter",
    "internvl": "workers.adapters.internvl:InternVLAdapter",
    "internvl_thinking": "workers.adapters.internvl:InternVLThinkingAdapter",
    "mmada": "workers.adapters.mmada:MmadaAdapter",
    "qwen": "workers.adapters.qwen:QwenAdapter",
    "thyme": "workers.adapters.thyme:ThymeAdapter",
}


def load_adapter(name: str) -> Adapter:
    """Return a new adapter.

    Raises ``ConfigError`` for an unknown name (with the nearest known name), an import string that cannot be imported or
    called, and a class without the methods of ``Adapter``.
    """
    path = ADAPTERS.get(name, name)
    if not IMPORT_STRING.fullmatch(path):
        known = sorted(ADAPTERS)
        listed = f"known adapters: {', '.join(known)}; or an import string such as my_package.my_adapter:MyAdapter"
        raise ConfigError(f"unknown adapter {name!r}{suggest(name, known)}; {listed}")
    adapter: Adapter = import_object(path, what="adapter")()
    for method in ("to_prompt", "to_prediction"):
        if not callable(getattr(adapter, method, None)):
            raise ConfigError(
                f"adapter {name!r}: it has no method {method!r}; define to_prompt and to_prediction (see workers.adapters.base)"
            )
    try:
        inspect.signature(adapter.to_prompt).bind("sample", "messages", reminder=None)
    except TypeError as error:  # adapters for earlier versions take the number of images in place of the messages
        expected = "expected to_prompt(sample, messages, *, reminder=None) (see workers.adapters.base)"
        raise ConfigError(f"adapter {name!r}: its method to_prompt does not accept its arguments: {error}; {expected}") from None
    return adapter
