"""Log events are identifiers, and docs/events.md lists each event once."""

from tests.support.events import HEAD, PAGE, find_events, find_unnamed, read_rows, write_page


def test_log_events_are_identifiers() -> None:
    assert find_unnamed() == []


def test_page_lists_each_event_once() -> None:
    assert [row[0].strip("`") for row in read_rows()] == list(find_events())


def test_page_has_levels_and_fields() -> None:
    assert PAGE.read_text().startswith(HEAD)
    assert write_page() == PAGE.read_text()


def test_page_explains_each_event() -> None:
    assert [row[0] for row in read_rows() if len(row) != 4 or not row[3]] == []
