"""A model's own code runs only where the profile says so: from its configuration, processor, tokenizer or generation."""

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

# What a model's folder may bring, by the file that names it and what it names.
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
    """Return the file that a model's own code makes."""
    return tmp_path / "ran"


@pytest.fixture
def folder(tmp_path: Path, ran: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a whole model with Python files of its own, which nothing names yet."""
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    folder = tmp_path / "weights"
    shutil.copytree(TINY, folder)
    (folder / "homemade.py").write_text(CODE.format(ran=str(ran)))
    return folder


def name_code(folder: Path, file: str, **changes: str) -> None:
    """Name the code in a file of the model, and change other fields of it."""
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), "auto_map": AUTO_MAPS[file], **changes}))


def load(folder: Path, **fields: bool) -> HfModel:
    return HfModel(ModelProfile(name="homemade", engine="hf", **fields), str(folder), HfOptions(dtype="float32", device="cpu"))


def test_a_model_that_needs_its_own_code_is_refused_with_words_and_nothing_runs(folder: Path, ran: Path) -> None:
    name_code(folder, "config.json", model_type="homemade")
    with pytest.raises(ConfigError, match=r"(?s)profile homemade: .*contains custom code.*trust_remote_code"):
        load(folder)
    assert not ran.exists()


@pytest.mark.parametrize("file", AUTO_MAPS)
def test_code_that_can_be_done_without_does_not_run(folder: Path, ran: Path, file: str) -> None:
    name_code(folder, file)
    load(folder).release()
    assert not ran.exists()


def test_a_generation_loop_of_the_models_own_does_not_run(folder: Path, ran: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "homemade.py").rename(folder / "custom_generate" / "generate.py")
    load(folder).release()
    assert not ran.exists()


@pytest.mark.parametrize("file", AUTO_MAPS)
def test_it_runs_where_the_profile_trusts_it(folder: Path, ran: Path, file: str) -> None:
    name_code(folder, file)
    with suppress(ConfigError):  # whether it fits the weights is its own matter
        load(folder, trust_remote_code=True).release()
    assert ran.exists()
