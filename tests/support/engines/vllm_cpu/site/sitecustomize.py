"""Python imports this at start when its folder is on the path: torchvision's CUDA build can then be imported beside a CPU torch.

Two operators are in that build's CUDA library alone, and torchvision describes them to torch at import: they must be known
by then.  No test runs them.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class _OperatorsFirst(MetaPathFinder):
    """Finds no module; defines the operators when torchvision is about to be imported, so that nobody else pays for torch."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        del path, target
        if name == "torchvision":
            sys.meta_path.remove(self)
            import torch

            torch.library.define("torchvision::nms", _SCHEMA)
            torch.library.define("torchvision::qnms", _SCHEMA)
        return None


sys.meta_path.insert(0, _OperatorsFirst())
