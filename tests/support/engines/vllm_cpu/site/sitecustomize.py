"""Make torchvision's CUDA build importable beside a CPU torch. Python imports this at start if its folder is on the path.

Two operators exist only in that build's CUDA library. They must be defined before the import of torchvision, which registers their
metadata with torch. The tests do not run them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _OperatorsFirst(MetaPathFinder):
    """A finder that only defines the operators before torchvision is imported, so that other processes do not import torch."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            torch.library.define("torchvision::nms", _SCHEMA)
            torch.library.define("torchvision::qnms", _SCHEMA)
        return None


sys.meta_path.insert(0, _OperatorsFirst())
