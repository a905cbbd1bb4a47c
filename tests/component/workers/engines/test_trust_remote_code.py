"""Code in a model's folder (configuration, processor, tokenizer, generation) runs only with ``trust_remote_code``."""

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import transformers.dynamic_module_utils

from common.errors import ConfigError
from common.spec.models import ModelProfile
from tests.support.engines.requests import TINY
from workers.engines.hf.model import HfModel, HfOptions

# The kinds of code in a model's folder, by the file that names the code.
AUTO_MAPS: dict[str, dict[str, Any]] = {
    "config.json": {"AutoConfig": "homemade.HomemadeConfig", "AutoModelForImageTextToText": "homemade.HomemadeModel"},
    "processor_config.json": {"AutoProcessor": "homemade.HomemadeProcessor", "AutoImageProcessor": "homemade.HomemadeImages"},
    "tokenizer_config.json": {"AutoTokenizer": ["homemade.HomemadeTokenizer", "homemade.HomemadeTokenizer"]},
}
CODE = """
import pathlib
import transformers
pathlib.Path({ran!r}).touch()
class HomemadeConfig(transformers.LlavaConfig): pass
class HomemadeModel(transformers.LlavaForConditionalGeneration):
    config_class = HomemadeConfig
class HomemadeProcessor(transformers.LlavaProcessor): pass
class HomemadeImages(transformers.SiglipImageProcessor): pass
HomemadeTokenizer = transformers.PreTrainedTokenizerFast
def generate(model, **inputs): raise RuntimeError("not reached")
"""


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """Return the file that the model's own code creates when it runs."""
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a complete model with its own Python file. No configuration file names it yet."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "weights"
    shutil.copytree(TINY, folder)
    (folder / "homemade.py").write_text(CODE.format(ran=str(ran)))
    return folder


def name_code(folder: Path, file: str, **changes: str) -> None:
    """Name the code in a file of the model, and change other fields of that file."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": AUTO_MAPS[file], **changes}))


def load(folder: Path, **fields: bool) -> HfModel:
    return HfModel(ModelProfile(name="homemade", engine="hf", **fields), str(folder), HfOptions(dtype="float32", device="cpu"))


def test_model_with_required_code_is_rejected(folder: Path, ran: Path) -> None:
    name_code(folder, "config.json", model_type="homemade")
    with pytest.raises(ConfigError, match=r"(?s)profile homemade: .*contains custom code.*trust_remote_code"):
        load(folder)
    assert not ran.exists()


@pytest.mark.parametrize("file", AUTO_MAPS)
def test_optional_remote_code_does_not_run(folder: Path, ran: Path, file: str) -> None:
    name_code(folder, file)
    load(folder).release()
    assert not ran.exists()


def test_custom_generation_loop_does_not_run(folder: Path, ran: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "homemade.py").rename(folder / "custom_generate" / "generate.py")
    load(folder).release()
    assert not ran.exists()


@pytest.mark.parametrize("file", AUTO_MAPS)
def test_remote_code_runs_if_the_profile_allows_it(folder: Path, ran: Path, file: str) -> None:
    name_code(folder, file)
    with suppress(ConfigError):  # the test does not need code that fits the weights
        load(folder, trust_remote_code=True).release()
    assert ran.exists()
