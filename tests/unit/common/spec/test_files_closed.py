"""Unreadable weights and profiles: an error message instead of a traceback, and exit code 3 for a transient failure."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from common.errors import ConfigError, TransientError
from common.exit_codes import UNREACHABLE
from common.settings import get_settings
from common.spec.files import find_profile, find_weights, load_yaml, read_profile
from tests.support.faults.closed_folders import close_folder


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield a folder without access permission."""
    close_folder(monkeypatch, tmp_path / "closed")
    get_settings.cache_clear()
    yield tmp_path / "closed"
    get_settings.cache_clear()


def test_unreadable_weights_are_a_config_error(closed: Path) -> None:
    path = closed.parent / "w.yaml"
    path.write_text(yaml.safe_dump({"name": "w", "engine": "hf", "weights": f"{closed}/weights"}))
    profile = read_profile(str(path))
    with pytest.raises(ConfigError, match=r"w\.yaml: weights: .*/closed/weights cannot be read: Permission denied; check its perm"):
        find_weights(profile, profile_path=path)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.ENOTCONN, errno.EHOSTDOWN, errno.EMFILE], ids=os.strerror)
def test_unavailable_file_system_is_a_transient_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(yaml.safe_dump({"name": "w", "engine": "hf", "weights": f"{tmp_path}/weights"}))
    profile = read_profile(str(path))

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    for method, read in (("is_dir", lambda: find_weights(profile, profile_path=path)), ("open", lambda: load_yaml(path))):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, fail)
            with pytest.raises(TransientError, match=f"cannot be read: {os.strerror(number)}") as caught:
                read()
        assert caught.value.exit_code == UNREACHABLE


def test_unreadable_profiles_folder_is_treated_as_empty(closed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEET_PROFILES_DIR", str(closed / "profiles"))
    get_settings.cache_clear()
    assert read_profile("tiny").name == "tiny"
    with pytest.raises(ConfigError, match=r"model profile 'mine' not found(.|\n)*looked at: .*/closed/profiles/mine\.yaml"):
        find_profile("mine")
