"""Columns of rows: names that fields have in files, mapped columns and ignored columns."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import ConfigError
from common.spec.models import DatasetSource
from producer.datasets import read_dataset
from producer.datasets.survey import survey_dataset
from tests.support.datasets import read_one, read_unsurveyed, talk


def test_lower_priority_alias_becomes_metadata(tmp_path: Path) -> None:
    sample = read_one(tmp_path, qid="second", id="first", answers=["x"], answer=None, choices=["p", "q"])
    assert (sample.index, sample.target, sample.options) == ("first", ("x",), {"A": "p", "B": "q"})
    assert sample.metadata == {"qid": "second"}


@pytest.mark.parametrize("blank", [None, "", " ", [], [""], [None, []]])
def test_blank_alias_does_not_hide_a_filled_one(tmp_path: Path, blank: Any) -> None:
    sample = read_one(tmp_path, image=blank, images=["a.png"], options=blank, choices=["p", "q"], answer=blank, answers=["q"])
    assert ([media.uri for media in sample.media], sample.options) == ([f"{tmp_path}/a.png"], {"A": "p", "B": "q"})
    assert (sample.target, sample.fault) == (("B",), None)
    sample = read_one(tmp_path, options=blank, A="p", B="q", answer="B", id=blank, index=7)
    assert (sample.options, sample.target, sample.index) == ({"A": "p", "B": "q"}, ("B",), "7")
    (sample,) = read_unsurveyed(tmp_path, {"question": blank, "messages": talk("Why?", "so")})
    assert (sample.question, sample.target) == ("Why?", ("so",))


def test_fields_map_known_names_to_columns(tmp_path: Path) -> None:
    row = {"qid": "q1", "id": "inner", "text": "Q?", "gold": "x", "answer": "not this", "picture": "a.png", "question": "not this"}
    fields = {"id": "qid", "question": "text", "target": "gold", "image": "picture"}
    (sample,) = read_unsurveyed(tmp_path, row, fields=fields)
    assert (sample.index, sample.question, sample.target, len(sample.media)) == ("q1", "Q?", ("x",), 1)
    assert sample.metadata == {"id": "inner", "answer": "not this", "question": "not this"}


def test_mapped_field_may_be_missing_in_rows(tmp_path: Path) -> None:
    samples = read_unsurveyed(tmp_path, {"question": "1?"}, {"question": "2?", "clue": "h"}, fields={"hint": "clue"})
    assert [sample.hint for sample in samples] == [None, "h"]


@pytest.mark.parametrize("limit", [None, 1])
def test_mapped_field_missing_everywhere_is_config_error(tmp_path: Path, limit: int | None) -> None:
    with pytest.raises(ConfigError, match=r"fields.target: .*set.jsonl has no field 'anwser'; did you mean 'answer'\?"):
        read_unsurveyed(tmp_path, {"question": "1?", "answer": "x"}, {"question": "2?"}, fields={"target": "anwser"}, limit=limit)


def test_mapping_of_unknown_name_is_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'questoin' is not a known field name; did you mean 'question'\?"):
        read_unsurveyed(tmp_path, {"question": "1?"}, fields={"questoin": "question"})


def test_mapping_of_ignored_column_is_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fields\.hint maps 'clue', and ignore lists it"):
        read_unsurveyed(tmp_path, {"question": "1?", "clue": "x"}, fields={"hint": "clue"}, ignore=["clue"])


CONTENTS = {
    "set.jsonl": b'{"question": "1?", "category": "x"}\n{"question": "2?"}\n',
    "set.json": b'[{"question": "1?", "category": "x"}, {"question": "2?"}]',
    "columns.json": b'{"question": ["1?"], "category": ["x"]}',
    "set.csv": b"question,category\n1?,x\n",
    "set.tsv": b"index\tquestion\tcategory\n1\t1?\t\n",
}


@pytest.mark.parametrize("name", CONTENTS)
def test_misspelled_ignored_column_is_config_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(CONTENTS[name])
    source = DatasetSource(path=str(tmp_path / name), ignore=("categry",))
    message = rf"ignore: .*{name} has no column 'categry'; did you mean 'category'\?; expected some of: category, "
    for read_all in (read_dataset, survey_dataset):
        with pytest.raises(ConfigError, match=message):
            list(read_all(source))


def test_ignored_column_may_be_missing_in_rows(tmp_path: Path) -> None:
    samples = read_unsurveyed(tmp_path, {"question": "1?"}, {"question": "2?", "note": "x"}, {"question": "3?"}, ignore=["note"])
    assert [sample.metadata for sample in samples] == [{}, {}, {}]
