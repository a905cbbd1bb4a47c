"""Questions about scenes, as samples without media. There are five kinds of questions, each in several wordings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from common.records import Kind, Sample
from examples.tiny.scenes import COLOURS, FORMS, Scene, Shape

CAPTION_WORDINGS = ("Describe the picture.", "Describe the image.", "Write a caption for this picture.", "What is in the picture?")

_SIDES = {"leftmost": (0, -1), "rightmost": (0, 1), "topmost": (1, -1), "lowest": (1, 1)}
_RELATIONS = {"to the left of": (0, -1), "to the right of": (0, 1), "above": (1, -1), "below": (1, 1)}
_CLEAR_PX = 6  # questions about positions require shapes that are at least this far apart


@dataclass(frozen=True, slots=True)
class Fact:
    """A question, its answer, and ``candidates``, which lists plausible options."""

    category: str
    question: str
    answer: str
    candidates: Sequence[str] = ()


def ask_scene(rng: Random, scene: Scene, kind: Kind) -> Sample:
    """Return a random question of the given kind about the scene, as a sample without media."""
    while True:
        fact = rng.choice(_FACTS[kind])(rng, scene)
        if fact is not None:
            options = draw_options(rng, fact.answer, fact.candidates) if kind == "multiple_choice" else []
            return make_sample(kind, fact, options)


def make_sample(kind: Kind, fact: Fact, options: Sequence[str] = ()) -> Sample:
    """Return a sample without media.

    The ``options`` get the letters A, B, C and so on. The target is then the letter of the correct option.
    """
    letters = dict(zip("ABCDEFGH", options, strict=False))
    target = next((letter for letter, text in letters.items() if text == fact.answer), fact.answer)
    return Sample(
        sample_id="",
        dataset="",
        index=0,
        kind=kind,
        question=fact.question,
        options=letters,
        target=(target,),
        metadata={"category": fact.category},
    )


def draw_options(rng: Random, answer: str, candidates: Sequence[str], count: int = 4) -> list[str]:
    """Return ``count`` options in random order: the answer, and wrong options from ``candidates``."""
    wrong = rng.sample([text for text in candidates if text != answer], count - 1)
    return rng.sample([answer, *wrong], count)


def describe_scene(scene: Scene) -> str:
    """Return the caption, such as ``A red circle, a blue square and a green cross.``, with the shapes from left to right."""
    names = [add_article(shape.name) for shape in scene.shapes]
    text = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    return f"{text[0].upper()}{text[1:]}."


def add_article(noun: str) -> str:
    """Return the noun with its article, such as ``a red circle`` or ``an orange circle``."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _find_caption(rng: Random, scene: Scene) -> Fact:
    return Fact("caption", rng.choice([*CAPTION_WORDINGS, "Describe the picture from left to right."]), describe_scene(scene))


def _find_count(rng: Random, scene: Scene) -> Fact:
    form = rng.choice([*FORMS, *(shape.form for shape in scene.shapes)])
    colour = rng.choice([*COLOURS, *(shape.colour for shape in scene.shapes)])
    noun, found = rng.choice(
        [
            ("shapes", list(scene.shapes)),
            (f"{colour} shapes", [shape for shape in scene.shapes if shape.colour == colour]),
            ("crosses" if form == "cross" else f"{form}s", [shape for shape in scene.shapes if shape.form == form]),
        ]
    )
    wordings = (
        f"How many {noun} are there?",
        f"How many {noun} are in the picture?",
        f"How many {noun} do you see in the image?",
        f"Count the {noun}.",
    )
    return Fact("count", rng.choice(wordings), str(len(found)), ("0", "1", "2", "3", "4"))


def _find_colour(rng: Random, scene: Scene) -> Fact | None:
    described = _describe_one(rng, scene, [shape.form for shape in scene.shapes])
    if described is None:
        return None
    words, shape = described
    spelling = rng.choice(["colour", "color"])
    wordings = (
        f"What {spelling} is the {words}?",
        f"Which {spelling} does the {words} have?",
        f"What is the {spelling} of the {words}?",
    )
    return Fact("colour", rng.choice(wordings), shape.colour, tuple(COLOURS))


def _find_form(rng: Random, scene: Scene) -> Fact | None:
    described = _describe_one(rng, scene, [f"{shape.colour} shape" for shape in scene.shapes])
    if described is None:
        return None
    words, shape = described
    wordings = (f"What is the {words}?", f"Which form does the {words} have?", f"What kind of shape is the {words}?")
    return Fact("form", rng.choice(wordings), shape.form, FORMS)


def _describe_one(rng: Random, scene: Scene, nouns: Sequence[str]) -> tuple[str, Shape] | None:
    """Return a description that fits only one shape, and the shape.

    The description is a noun that fits only this shape, or the shape's position at one side of the scene. Return ``None`` if
    the chosen kind of description is ambiguous.
    """
    if rng.random() < 0.5:
        side, (axis, sign) = rng.choice(list(_SIDES.items()))
        first, *rest = sorted(scene.shapes, key=lambda shape: sign * _position(shape, axis), reverse=True)
        clear = not rest or abs(_position(first, axis) - _position(rest[0], axis)) >= _CLEAR_PX
        return (f"{side} shape", first) if clear else None
    single = [number for number, noun in enumerate(nouns) if nouns.count(noun) == 1]
    number = rng.choice(single) if single else None
    return (nouns[number], scene.shapes[number]) if number is not None else None


def _find_present(rng: Random, scene: Scene) -> Fact:
    wordings = ("Which of these is in the picture?", "Which of these do you see?", "Which one is in the image?")
    return Fact("presence", rng.choice(wordings), rng.choice(scene.shapes).name, rng.sample(_list_absent(rng, scene), 3))


def _confirm_present(rng: Random, scene: Scene) -> Fact:
    present = rng.random() < 0.5
    name = add_article(rng.choice(scene.shapes).name if present else rng.choice(_list_absent(rng, scene)))
    wordings = (f"Is there {name}?", f"Is there {name} in the picture?", f"Do you see {name} in the image?")
    return Fact("presence", rng.choice(wordings), "Yes" if present else "No")


def _confirm_relation(rng: Random, scene: Scene) -> Fact | None:
    if len({shape.name for shape in scene.shapes}) < max(len(scene.shapes), 2):
        return None
    one, other = rng.sample(scene.shapes, 2)
    relation, (axis, sign) = rng.choice(list(_RELATIONS.items()))
    distance = sign * (_position(one, axis) - _position(other, axis))
    if abs(distance) < _CLEAR_PX:
        return None
    return Fact("relation", f"Is the {one.name} {relation} the {other.name}?", "Yes" if distance > 0 else "No")


def _list_absent(rng: Random, scene: Scene) -> list[str]:
    """Return the names of shapes that are not in the scene.

    In half of the calls, return all such names. In the other half, return only the names that share a colour or a form with a
    shape in the scene.
    """
    present = {shape.name for shape in scene.shapes}
    colours, forms = {shape.colour for shape in scene.shapes}, {shape.form for shape in scene.shapes}
    near_only = rng.random() < 0.5
    named = [f"{colour} {form}" for colour in COLOURS for form in FORMS if not near_only or colour in colours or form in forms]
    return [name for name in named if name not in present]


def _position(shape: Shape, axis: int) -> int:
    return shape.y if axis else shape.x


_FACTS: dict[Kind, tuple[Callable[[Random, Scene], Fact | None], ...]] = {
    "multiple_choice": (_find_colour, _find_form, _find_count, _find_present),
    "yes_no": (_confirm_present, _confirm_relation),
    "number": (_find_count,),
    "short_text": (_find_colour, _find_form),
    "free_text": (_find_caption,),
}
