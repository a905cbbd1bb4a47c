"""Scenes of one to four coloured shapes on a plain canvas of 64x64 pixels."""

from dataclasses import dataclass
from random import Random

from PIL import Image, ImageDraw

CANVAS_PX = 64
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 40, 40),
    "orange": (245, 140, 25),
    "yellow": (240, 215, 40),
    "green": (45, 160, 70),
    "blue": (40, 90, 215),
    "purple": (140, 60, 175),
}
FORMS = ("circle", "square", "triangle", "cross")
BACKGROUNDS = ((255, 255, 255), (215, 215, 215), (60, 60, 60), (0, 0, 0))

# The minimum horizontal distance of two centres. It keeps "leftmost" and the order of a caption unambiguous.
_MIN_DISTANCE_PX = 6
_MAX_SHAPES = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """One shape: its colour, its form, its centre ``x`` and ``y``, and its radius, in pixels."""

    colour: str
    form: str
    x: int
    y: int
    radius: int

    @property
    def name(self) -> str:
        """Return the colour and the form, for example ``red circle``."""
        return f"{self.colour} {self.form}"


@dataclass(frozen=True, slots=True)
class Scene:
    """Shapes from left to right, the background as RGB, and ``tint``, the RGB offset added to each colour."""

    shapes: tuple[Shape, ...]
    background: tuple[int, int, int]
    tint: tuple[int, int, int]


def make_scene(rng: Random) -> Scene:
    """Return a random scene. Its shapes do not touch, and no shape is directly above another."""
    count = rng.randint(1, _MAX_SHAPES)
    shapes: list[Shape] = []
    while len(shapes) < count:
        shapes = [] if rng.random() < 0.02 else shapes  # sometimes restart: there may be no space for another shape
        radius = rng.randint(6, 10)
        x, y = (rng.randint(radius + 1, CANVAS_PX - radius - 2) for _ in range(2))
        shape = Shape(rng.choice(list(COLOURS)), rng.choice(FORMS), x, y, radius)
        if all(_are_separate(shape, other) for other in shapes):
            shapes.append(shape)
    shapes.sort(key=lambda shape: shape.x)
    red, green, blue = (rng.randint(-10, 10) for _ in range(3))
    return Scene(tuple(shapes), rng.choice(BACKGROUNDS), (red, green, blue))


def draw_scene(scene: Scene) -> Image.Image:
    """Return the scene as an RGB image of 64x64 pixels, without anti-aliasing, so that its PNG is small."""
    image = Image.new("RGB", (CANVAS_PX, CANVAS_PX), scene.background)
    canvas = ImageDraw.Draw(image)
    for shape in scene.shapes:
        red, green, blue = (tone + off for tone, off in zip(COLOURS[shape.colour], scene.tint, strict=True))
        _draw_shape(canvas, shape, (max(red, 0), max(green, 0), max(blue, 0)))
    return image


def _are_separate(one: Shape, other: Shape) -> bool:
    across, down = abs(one.x - other.x), abs(one.y - other.y)
    return across >= _MIN_DISTANCE_PX and max(across, down) >= one.radius + other.radius + 2


def _draw_shape(canvas: ImageDraw.ImageDraw, shape: Shape, fill: tuple[int, int, int]) -> None:
    x, y, radius = shape.x, shape.y, shape.radius
    if shape.form == "circle":
        canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    elif shape.form == "square":
        canvas.rectangle((x - radius + 1, y - radius + 1, x + radius - 1, y + radius - 1), fill=fill)
    elif shape.form == "triangle":
        canvas.polygon([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], fill=fill)
    else:
        arm = max(radius // 3, 2)
        canvas.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
        canvas.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
