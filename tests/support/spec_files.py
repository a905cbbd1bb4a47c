"""Specs and profiles in a folder, for tests of the files of specs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.errors import ConfigError
from common.settings import get_settings
from common.spec.files import read_specs


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder that contains a dataset and the profile ``mine``. The working directory is another folder."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "profiles").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "specs" / "rows.jsonl").write_text('{"question": "?"}\n')
    write_yaml(tmp_path / "profiles" / "mine.yaml", name="mine", engine="echo", generation={"max_tokens": 7, "temperature": 0.5})
    monkeypatch.setenv("FLEET_PROFILES_DIR", str(tmp_path / "profiles"))
    monkeypatch.chdir(tmp_path / "elsewhere")
    get_settings.cache_clear()
    yield tmp_path
    get_settings.cache_clear()


def write_yaml(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def write_spec(folder: Path, **changes: Any) -> Path:
    content = {"model": "mine", "datasets": [{"path": "rows.jsonl"}], **changes}
    return write_yaml(folder / "specs" / "spec.yaml", **{field: value for field, value in content.items() if value is not ...})


def refuse(path: Path, *changes: str) -> str:
    """Return the error message for an invalid spec."""
    with pytest.raises(ConfigError) as caught:
        read_specs(path, changes)
    return str(caught.value)
