"""Names of exported files: unique in a run, below the output folder, and from the image or from the row's id."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import ConfigError
from common.records import Media, Sample
from common.spec.models import DatasetSource, RunSpec
from common.storage.run_record import PlannedRun, load_planned_run
from common.storage.store import Store, open_store
from producer.results.export.choices import Naming
from producer.results.export.names import Namer
from producer.results.rows import PlannedRow
from tests.support.planning import make_sample, make_spec, plan_samples


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def make_run_spec(*datasets: str, media_root: str | None = "/data/raw") -> RunSpec:
    sources = tuple(DatasetSource(path=f"/data/{name}.jsonl", name=name, digest="0", media_root=media_root) for name in datasets)
    return make_spec(*datasets).model_copy(update={"datasets": sources})


def plan(store: Store, samples: list[Sample], spec: RunSpec) -> PlannedRun:
    plan_samples(store, samples, spec)
    return load_planned_run(store, spec.run_id)


def make_picture(number: int, uri: str, *, dataset: str = "rows", index: str = "") -> Sample:
    return make_sample(number, dataset=dataset, media=(Media(uri=uri),)).model_copy(update={"index": index or str(number)})


ROWS = make_run_spec("rows")
NAMES = {
    "/data/raw/a.png": ("a.png", "a.png"),
    "/data/raw/icons/a.png": ("a.png", "icons/a.png"),
    "/data/raw/./icons//b/../a.png": ("a.png", "icons/a.png"),
    "/data/raw/../other/a.png": ("a.png", "data/other/a.png"),
    "/elsewhere/a.png": ("a.png", "elsewhere/a.png"),
    "/data/rawer/a.png": ("a.png", "data/rawer/a.png"),
    "file:///data/raw/a%20b.png": ("a b.png", "a b.png"),
    "https://host/icons/a%20b.png?size=2": ("a b.png", "host/icons/a b.png"),
    "s3://bucket/icons/a.png": ("a.png", "bucket/icons/a.png"),
    "https://host/": (None, None),
    "https://host": (None, None),
    "/data/raw/图/形.png": ("形.png", "图/形.png"),
}


@pytest.mark.parametrize("uri", NAMES)
def test_name_comes_from_the_image(uri: str) -> None:
    row = PlannedRow(make_picture(1, uri))
    assert (Namer(ROWS, Naming.FILE).name_row(row), Namer(ROWS, Naming.PATH).name_row(row)) == NAMES[uri]


def test_media_root_is_the_folder_of_the_dataset() -> None:
    namer = Namer(make_run_spec("rows", media_root=None), Naming.PATH)
    assert namer.name_row(PlannedRow(make_picture(1, "/data/icons/a.png"))) == "icons/a.png"


@pytest.mark.parametrize(
    "media", [(), (Media(data="aGk="),), (Media(uri="/data/rows.tsv", offset=10, length=20, encoding="base64"),)]
)
@pytest.mark.parametrize("naming", [Naming.FILE, Naming.PATH])
def test_embedded_images_have_no_name(store: Store, media: tuple[Media, ...], naming: Naming) -> None:
    sample = make_sample(1, media=media)
    run = plan(store, [sample], ROWS)
    assert Namer(ROWS, naming).name_row(PlannedRow(sample)) is None
    assert Namer(ROWS, Naming.ID).name_row(PlannedRow(sample)) == "1"
    with pytest.raises(ConfigError, match=r"no row has an image file with a name .*; use --names id"):
        Namer(run.spec, naming).check_names(run, store)


def test_several_datasets_have_folders_of_their_own(store: Store) -> None:
    samples = [make_picture(1, "/data/raw/a.png", dataset=name) for name in ("one", "two")]
    run = plan(store, samples, make_run_spec("one", "two"))
    for naming, names in ((Naming.PATH, ["one/a.png", "two/a.png"]), (Naming.ID, ["one/1", "two/1"])):
        Namer(run.spec, naming).check_names(run, store)
        assert [Namer(run.spec, naming).name_row(PlannedRow(sample)) for sample in samples] == names
    with pytest.raises(ConfigError, match=r"two rows have the file name 'a.png'.*--names path"):
        Namer(run.spec, Naming.FILE).check_names(run, store)


def test_same_name_in_two_folders_is_refused(store: Store) -> None:
    uris = {"/data/raw/one/a.png": "7", "/data/raw/two/a.png": "8"}
    samples = [make_picture(number, uri, index=index) for number, (uri, index) in enumerate(uris.items())]
    run = plan(
        store, [*samples, *(make_picture(number, f"/data/raw/{number}.png") for number in range(10, 60))], make_run_spec("rows")
    )
    with pytest.raises(ConfigError) as error:
        Namer(run.spec, Naming.FILE).check_names(run, store)
    assert all(f"row '{index}' of dataset 'rows' ({uri})" in str(error.value) for uri, index in uris.items())
    assert "use --names path to keep the folders" in str(error.value)
    Namer(run.spec, Naming.PATH).check_names(run, store)


def test_two_questions_about_one_image_are_refused(store: Store) -> None:
    run = plan(store, [make_picture(number, "/data/raw/a.png") for number in (1, 2)], ROWS)
    for naming in (Naming.FILE, Naming.PATH):
        with pytest.raises(ConfigError, match="--names id"):
            Namer(run.spec, naming).check_names(run, store)
    Namer(run.spec, Naming.ID).check_names(run, store)


def test_repeated_ids_are_refused(store: Store) -> None:
    samples = [make_picture(number, f"/data/raw/{number}.png", index="same") for number in (1, 2)]
    run = plan(store, samples, ROWS)
    with pytest.raises(ConfigError, match=r"two rows have the file name 'same'.*give each row its own id"):
        Namer(run.spec, Naming.ID).check_names(run, store)


@pytest.mark.parametrize("index", ["", ".", "..", "/", "../..", "a\0b", "é" * 126, f"a/{'b' * 252}/c"])
def test_unusable_id_gives_no_name(index: str) -> None:
    assert Namer(ROWS, Naming.ID).name_row(PlannedRow(make_sample(1).model_copy(update={"index": index}))) is None


@given(index=st.text(alphabet="./a\\é\0 ", max_size=12))
def test_no_name_leads_out_of_the_folder(index: str) -> None:
    name = Namer(ROWS, Naming.ID).name_row(PlannedRow(make_sample(1).model_copy(update={"index": index})))
    if name is not None:
        assert Path("/out") in Path("/out", name).parents
        assert ".." not in Path(name).parts
