"""Secrets, including values of environment variables, are masked in texts and records. Other values are kept."""

from typing import Any

import pytest

from common.redaction import find_secrets, mask_record, mask_text

ENVIRONMENT = {
    "FLEET_REDIS_URL": "redis://me:r3d1s%2Fp%40ss@host:6379/0",
    "AWS_SECRET_ACCESS_KEY": "wJalr/K7MDENG+bPx",
    "HF_TOKEN": "hub-token-1234",
    "MY_CLIENT_SECRET": "multi word secret",
    "DB_PASSWORD": "multi word secret and more",
    "FLOWER_BASIC_AUTH": "ann:anns-own,bob:bobs-own",
    "ODD_PASSWORD": "back\\slash",
    "SHORT_KEY": "1",
    "EMPTY_TOKEN": "",
    "MONKEY": "not-a-secret",
    "KEYBOARD_LAYOUT": "qwertz-layout",
}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        # URLs: the credentials and the whole query are masked, also if they are not in the environment.
        ("redis://:pw@h:6379/0 is unreachable", "redis://***@h:6379/0 is unreachable"),
        ("s3://key:secret@bucket/a b", "s3://***@bucket/a b"),
        ("https://token@host/a", "https://***@host/a"),
        ("'https://u:pw@h/a.png?X-Amz-Signature=12&b=3', found", "'https://***@h/a.png?***', found"),
        ("(see https://h/a?sig=12).", "(see https://h/a?***)."),
        ("https://h/a?sig=12: refused", "https://h/a?***: refused"),
        ("redis://:p@ss:w/ord%@h:1/0", "redis://***@h:1/0"),  # not percent-encoded
        ("redis://:a@h1,redis://:b@h2", "redis://***@h2"),
        ("https://h:8080/a@b and me@mail.org", "https://***@b and me@mail.org"),  # ambiguous, so all of it is masked
        # Values of environment variables, plain and percent-encoded.
        ("r3d1s/p@ss and r3d1s%2Fp%40ss", "*** and ***"),
        ("wJalr/K7MDENG+bPx or wJalr%2FK7MDENG%2BbPx", "*** or ***"),
        ("multi word secret and more", "***"),
        ("multi word secret, and less", "***, and less"),
        ("ann has anns-own, bob bobs-own", "ann has ***, bob ***"),
        (repr({"pw": "back\\slash"}), "{'pw': '***'}"),
        # Keys with a known prefix.
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("key sk-proj-abcdefghijklmnop is wrong", "key *** is wrong"),
        ("hf_abcdefghijklmnopqrst AKIAABCDEFGHIJKLMNOP", "*** ***"),
        # Text that is kept.
        ("chunk 1 of run qwen-1f0c92b4d7aa: 12/64", "chunk 1 of run qwen-1f0c92b4d7aa: 12/64"),
        ("https://h:8080/a#b", "https://h:8080/a#b"),
        ("is it? yes: not-a-secret qwertz-layout", "is it? yes: not-a-secret qwertz-layout"),
        ("expected redis://:password@host:6379/0", "expected redis://:password@host:6379/0"),
        ("", ""),
    ],
)
def test_secrets_in_text_are_masked(text: str, masked: str) -> None:
    assert mask_text(text) == masked
    assert mask_text(masked) == masked


@pytest.mark.parametrize(
    "name",
    ["api_key", "apiKey", "API-KEY", "openai_api_key", "password", "Authorization", "token", "hf_token", "client_secret", "X_KEY"],
)
def test_value_with_secret_name_is_masked(name: str) -> None:
    given: tuple[Any, ...] = ("x", 12345, ["x"], {"y": "x"}, b"x")
    for value in given:
        assert mask_record({"given": [{name: value}]}) == {"given": [{name: "***"}]}
        assert list(find_secrets({"given": [{name: value}]})) == [f"given.0.{name}"]
    absent: tuple[Any, ...] = (None, "", False)
    for value in absent:
        assert mask_record({name: value}) == {name: value}
        assert list(find_secrets({name: value})) == []


@pytest.mark.parametrize(
    "name",
    ["pad_token", "eos_token_id", "max_tokens", "image_token", "tokenizer", "key", "keys", "monkey", "api_key_env", "secretary"],
)
def test_similar_names_are_not_masked(name: str) -> None:
    assert mask_record({name: "<pad>"}) == {name: "<pad>"}
    assert list(find_secrets({name: "<pad>"})) == []


def test_record_keeps_structure_and_other_values() -> None:
    odd = object()
    record: dict[Any, Any] = {"a": [1, 2.5, None, True, (odd, "b")], 3: {"c": range(2)}}
    assert mask_record(record) == record
    assert mask_record({"error": ValueError("at redis://:pw@h")}) == {"error": "ValueError('at redis://***@h')"}
    assert mask_record(["HF_TOKEN", {"x": "hub-token-1234"}]) == ["HF_TOKEN", {"x": "***"}]


def test_secret_set_after_the_first_call_is_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mask_text("a-late-secret") == "a-late-secret"
    monkeypatch.setenv("LATE_KEY", "a-late-secret")
    assert mask_text("a-late-secret") == "***"
    monkeypatch.delenv("LATE_KEY")
    assert mask_text("a-late-secret") == "a-late-secret"


def test_secrets_in_engine_options_are_found() -> None:
    options = {
        "base_url": "https://me:pw@h/v1?api-version=3",
        "headers": [{"x": "Bearer abcdefgh"}],
        "plain_url": "https://h/v1?api-version=3",
    }
    assert list(find_secrets(options, "engine_options")) == ["engine_options.base_url", "engine_options.headers.0.x"]


def test_long_message_is_cut() -> None:
    cut = mask_text("x" * 60_000_000)
    assert len(cut) <= 2000
    assert " … (cut, 60,000,000 characters) … " in cut
    assert mask_text(cut) == cut
    assert mask_text("x" * 2000) == "x" * 2000


@pytest.mark.parametrize("before", [1940, 1949, 1990, 2000, 7990, 7995])
def test_secret_at_the_cut_is_not_shown(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATE_KEY", "s3cret-of-twenty-letters")
    assert "s3" not in mask_text("x" * before + "s3cret-of-twenty-letters" + "x" * 9000)


@pytest.mark.parametrize("length", range(50_000, 50_026))
def test_repeated_secret_is_not_shown_in_part(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATE_KEY", "s3cret-of-twenty-letters")
    text = ("s3cret-of-twenty-letters," * 3000)[:length]
    shown = mask_text(f"{text} s3cret-of-twenty-letters")
    assert "s3" not in shown
    assert "letters" not in shown


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("\x1b[31mred", r"\x1b[31mred"), ("a\rb", r"a\rb"), ("\x9b2J", r"\x9b2J"), ("\u202etxt", r"\u202etxt"), ("\0", r"\x00")],
)
def test_control_characters_are_escaped(raw: str, shown: str) -> None:
    assert mask_text(raw) == shown
    assert mask_text("a\n\tb é 日") == "a\n\tb é 日"
