"""Extraction of answers from text: letters, yes or no, numbers and short text, in English and Chinese."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.answers.extract import extract_answer, find_boxed, normalize_answer
from common.records import Kind

OPTIONS = {"A": "a blue square", "B": "a red circle", "C": "a green star", "D": "None of the above"}
KINDS: tuple[Kind, ...] = ("multiple_choice", "yes_no", "number", "short_text", "free_text")

LETTERS: list[tuple[str, str | None]] = [
    # A letter in its usual forms.
    *[(text, "B") for text in ("B", "(B)", "B.", "**B**", "b", "（Ｂ）", "<B>", "`B`", '"B"', "B)", "[B]")],
    *[(text, "B") for text in ("Answer: B", "answer: b", "The answer is B", "The answer is (B).", "Ans: B", "Answer:\n\n**B**")],
    *[
        (text, "B")
        for text in ("B. a red circle", "B: a red circle", "B) a red circle", "b) a red circle", "Option B", "B\na red circle")
    ],
    *[(text, "B") for text in ("答案是B", "正确答案：Ｂ", "选 B", "故选B。", "B选项正确", "答案是B，因为它是红色的", "应选（B）")],
    *[(text, "B") for text in (r"\boxed{B}", r"$\boxed{\text{B}}$", r"So A is wrong. \boxed{B}", r"\boxed{B. a red circle}")],
    *[(text, "B") for text in ("I think it is B.", "I would choose option B since it is round", "Between A and B, I'd go with B")],
    ("The correct option is (C).", "C"),
    ('{"answer": "C"}', "C"),
    ("<answer>C</answer>", "C"),
    ("Let's see.\nA. a blue square - no\nC. a green star - yes\n\nTherefore, the answer is C.", "C"),
    ("The answer is " * 500 + "C", "C"),
    ("reasoning in a line\n\nC", "C"),
    # The text of an option.
    *[
        (text, "B")
        for text in ("a red circle", "A red circle.", "'red circle'", "The shape is a red circle.", "The answer is a red circle.")
    ],
    ("Based on the picture, the most likely shape is a red circle.", "B"),
    ("None of the above", "D"),
    ("It is a red circle, see the left", "B"),
    # The text prefers one letter.
    ("Option C is correct because A is wrong", "C"),
    ("A is wrong. B is right.", "B"),
    ("The answer is B, not A", "B"),
    ("B, not A", "B"),
    ("The answer is A. The final answer is B", "B"),
    ("B\n\nExplanation: A is blue.", "B"),
    # Words that look like letters.
    ("A dog runs", None),
    ("Answer: A dog", None),
    ("it is A dog", None),
    ("A-frame", None),
    ("A's", None),
    ("A.I.", None),
    ("The vitamin B level", None),
    ("I", None),
    ("I think so", None),
    # The text does not state one letter.
    ("A and B", None),
    ("A, B", None),
    ("A/B", None),
    ("A or B", None),
    ("答案是 A 和 B", None),
    ("Both", None),
    ("Both A and B", None),
    ("I think it is between A and B", None),
    ("The answer is A or B", None),
    ("The answer is A and C. (B) is wrong", None),
    ("The answer is A. The answer is B.", None),
    (r"\boxed{A} or \boxed{C}", None),
    ("a blue square and a red circle", None),
    ("A blue square or a red circle?", None),
    # Lists of the options.
    ("A. a blue square\nB. a red circle\nC. a green star", None),
    ("(A) a blue square (B) a red circle", None),
    ("A. a blue square B. a red circle C. a green star", None),
    # Negated, conditional, contradictory, unknown or missing answers.
    ("不选B", None),
    ("I don't think the answer is A", None),
    ("If the answer is A, it is blue", None),
    ("It is not a red circle", None),
    ("B. a blue square", None),
    ("A is not correct", None),
    ("E", None),
    ("The answer is E", None),
    ("The answer is clear", None),
    ("None", None),
    ("", None),
    ("I'm sorry, I can't help with that.", None),
]


@pytest.mark.parametrize(("text", "letter"), LETTERS)
def test_letter_or_none_is_returned(text: str, letter: str | None) -> None:
    assert extract_answer("multiple_choice", text, OPTIONS) == letter


def test_option_text_with_letters_is_matched_whole() -> None:
    options = {"A": "lung", "B": "heart", "C": "Both A and B"}
    for text in ("Both A and B", "C. Both A and B", "The answer is C. Both A and B", "The answer is both A and B."):
        assert extract_answer("multiple_choice", text, options) == "C"


def test_abbreviated_name_is_not_a_letter() -> None:
    options = {"A": "Salmonella", "B": "Clostridium difficile", "C": "Shigella"}
    assert extract_answer("multiple_choice", "C. difficile", options) is None
    assert extract_answer("multiple_choice", "E. coli", {"A": "E. coli", "E": "Shigella"}) == "A"


def test_longer_option_is_preferred_over_contained_option() -> None:
    options = {"A": "red", "B": "dark red", "C": "No finding"}
    assert extract_answer("multiple_choice", "The circle is dark red", options) == "B"
    assert extract_answer("multiple_choice", "There is no finding.", options) == "C"


def test_options_in_chinese_are_found_without_spaces() -> None:
    options = {"A": "左肺", "B": "右肺"}
    assert extract_answer("multiple_choice", "病灶位于右肺。", options) == "B"
    assert extract_answer("multiple_choice", "病灶不在右肺。", options) is None
    assert extract_answer("multiple_choice", "左肺和右肺", options) is None


def test_yes_no_options_follow_yes_no_rules() -> None:
    options = {"A": "Yes", "B": "No"}
    assert extract_answer("multiple_choice", "No, there is none.", options) == "B"
    assert extract_answer("multiple_choice", "There is no circle", options) is None


def test_number_options_match_number_words() -> None:
    assert extract_answer("multiple_choice", "There are three circles.", {"A": "2", "B": "3"}) == "B"


def test_every_letter_is_valid_without_options() -> None:
    assert extract_answer("multiple_choice", "The answer is E.", {}) == "E"
    assert extract_answer("multiple_choice", "A dog runs", {}) is None


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *[
            (text, "Yes")
            for text in ("Yes", "yes.", "**Yes**", "Yes, there is no fracture", "The answer is yes", "I think yes.", "true")
        ],
        *[
            (text, "Yes")
            for text in ("是", "是的，有骨折", "对", "对。", "有", "正确", "我认为, 是的", "Yes, though I cannot tell which")
        ],
        *[
            (text, "No")
            for text in ("No", "no", "No, there isn't", "no because it is red", "Answer: No", "No it is not", "(No)", "False")
        ],
        *[(text, "No") for text in ("否", "不是。", "不是，这是圆", "错", "没有", "答案是否", "不对")],
        *[
            (text, None)
            for text in ("", "not sure", "I don't know", "No idea", "Yes and no", "Yes or no", "yes. no.", "Maybe", "是否")
        ],
        *[
            (text, None)
            for text in ("No fracture", "No abnormality is seen", "对称", "不确定", "是，不是", "A circle", "No, I'm not sure")
        ],
        *[(text, None) for text in ("The answer is not yes", "nothing", "yesterday", "不是很确定")],
    ],
)
def test_yes_no_is_read_in_english_and_chinese(text: str, answer: str | None) -> None:
    assert extract_answer("yes_no", text, {}) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("5", "5"),
        ("There are 5 dogs.", "5"),
        ("1,234.50", "1234.5"),
        ("12,345,678", "12345678"),
        ("-3", "-3"),
        ("−3", "-3"),
        (".5", "0.5"),
        ("007", "7"),
        ("-0", "0"),
        ("50%", "50%"),
        ("50 percent", "50%"),
        ("百分之50", "50%"),
        ("5cm", "5"),
        ("37°C", "37"),
        ("$5", "5"),
        ("２３", "23"),
        ("Five.", "5"),
        ("twenty", "20"),
        ("twenty-one", "21"),
        ("two hundred", "200"),
        ("3.5 million", "3500000"),
        ("3万", "30000"),
        ("三", "3"),
        ("图中有两个圆。", "2"),
        ("第3张有5个", "5"),
        ("3 + 4 = 7", "7"),
        ("2 cats and 3 dogs, so the answer is 5", "5"),
        ("答案是：5个", "5"),
        (r"\boxed{42} of 50", "42"),
        ("I see one", "1"),
        ("5 and 5", "5"),
        ("The 2nd image has 3 dogs", "3"),
        ("The B12 level is 3", "3"),
        ("", None),
        ("three dogs and two cats", None),
        ("5-7", None),
        ("5 to 7", None),
        ("3/4", None),
        (r"\frac{3}{3}", None),
        ("3:30", None),
        ("2020-01-05", None),
        ("1,2,3", None),
        ("10²", None),
        ("1e5", None),
        ("5k", None),
        ("more than 5", None),
        ("at least five", None),
        ("至少5个", None),
        ("It is not 5", None),
        ("one half", None),
        ("two and a half", None),
        ("the left one", None),
        ("no one", None),
        ("三角形", None),
        ("第三", None),
        ("十一个", None),
        ("x=7, y=8", None),
        ("B12", None),
        ("two-story", None),
        ("many", None),
    ],
)
def test_numbers_are_canonical_or_none(text: str, answer: str | None) -> None:
    assert extract_answer("number", text, {}) == answer


def test_long_numbers_keep_every_digit() -> None:
    digits = "1234567890" * 5
    assert extract_answer("number", f"{digits}.10", {}) == f"{digits}.1"
    assert extract_answer("number", "9" * 5000, {}) == "9" * 5000


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Paris", "Paris"),
        ("The answer is Paris.", "Paris"),
        ("final answer: **blue**", "blue"),
        ('The answer is: "red".', "red"),
        ("“red”", "red"),
        (r"\boxed{\text{Paris}}", "Paris"),
        ("A dog.", "A dog"),
        ("U.S.", "U.S."),
        ("Dr. Smith", "Dr. Smith"),
        ("3.5", "3.5"),
        ("red\n  circle", "red circle"),
        ("The answer is Paris. It is the capital of France and a very large city.", "Paris"),
        ("答案是右肺。", "右肺"),
        ("右肺上叶，后段可见结节影", "右肺上叶，后段可见结节影"),
        ("", None),
        (" \n ", None),
        ("The answer is", None),
        ("The answer is red. The answer is blue.", None),
        ("This is a sentence of more than ten words in all, surely", None),
    ],
)
def test_short_text_is_stripped_of_wrapping(text: str, answer: str | None) -> None:
    assert extract_answer("short_text", text, {}) == answer


def test_free_text_is_trimmed() -> None:
    assert extract_answer("free_text", "  A dog runs.\n", {}) == "A dog runs."
    assert extract_answer("free_text", " \n", {}) is None


def test_nested_boxes_are_found_and_open_boxes_skipped() -> None:
    assert find_boxed(r"\boxed{\frac{1}{2}} \boxed{\text{B}} \boxed{x") == (r"\frac{1}{2}", "B")
    assert find_boxed(r"\boxed{\{1\}}") == (r"\{1\}",)


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Red Circle.", "red circle"),
        ("1,000", "1000"),
        ("3.0", "3"),
        ("Three", "3"),
        ("twenty-one", "21"),
        ("三", "3"),
        ("X-ray", "x ray"),
        ("a", "a"),
        ("½", "1/2"),
        ("50%", "50%"),
        ("-5", "-5"),
        ("-.5", "-0.5"),
        ("don't", "dont"),
        ("HER2+", "her2+"),
        ("１２：３０", "12:30"),
        ("  ", ""),
        ("Straße", "strasse"),
    ],
)
def test_normalization_removes_only_formatting(text: str, normalized: str) -> None:
    assert normalize_answer(text) == normalized


@given(st.text() | st.text(alphabet="aA1三.,-%'/: ½½ßthe\n"))
def test_normalization_is_idempotent(text: str) -> None:
    normalized = normalize_answer(text)
    assert normalize_answer(normalized) == normalized


@given(st.sampled_from(KINDS), st.text() | st.lists(st.sampled_from([text for text, _ in LETTERS]), max_size=4).map(" ".join))
def test_extraction_never_fails_and_returns_valid_answers(kind: Kind, text: str) -> None:
    answer = extract_answer(kind, text, OPTIONS)
    assert answer is None or answer
    if kind == "multiple_choice":
        assert answer is None or answer in OPTIONS
    if kind == "yes_no":
        assert answer in ("Yes", "No", None)


@given(
    st.sampled_from(["A", "B", "C", "D"]),
    st.sampled_from(["{}", "({})", "Answer: {}", "The answer is {}.", "答案是{}", "\\boxed{{{}}}"]),
)
def test_every_answer_form_is_extracted(letter: str, form: str) -> None:
    assert extract_answer("multiple_choice", form.format(letter), OPTIONS) == letter
