"""From scenes to pictures, with Pillow. Fonts are the DejaVu family, which comes with matplotlib."""

import math
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
from PIL import Image, ImageChops, ImageDraw, ImageFont

from .scenes import COLORS, SIDE, AnyScene, CharacterScene, ChartScene, PageScene, Shape, ShapeScene, Text, TextScene

CROPPED_SHARE = 0.25
CHART_TEXT = 16  # font size of labels and values, in pixels
MARGIN = 6  # pixels around what is drawn that are never cut off


@lru_cache(maxsize=512)
def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """A font of one of `scenes.FONTS`."""
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"), size)


@dataclass(frozen=True)
class Box:
    """A filled rectangle: a bar of a chart, or one of its axes."""

    color: str
    left: float
    top: float
    right: float
    bottom: float


Part = Shape | Text | Box


def parts(scene: AnyScene) -> list[Part]:
    """What a scene consists of, in the order of drawing."""
    if isinstance(scene, ShapeScene):
        return [*scene.shapes, *((scene.caption,) if scene.caption else ())]
    if isinstance(scene, TextScene):
        return list(scene.texts)
    if isinstance(scene, CharacterScene):
        return list(scene.characters)
    if isinstance(scene, PageScene):
        return [text for line in scene.lines for text in line]
    return _chart_parts(scene)


@dataclass(frozen=True)
class View:
    """How a scene is pictured: the part of it that is seen, and pixels of the picture per pixel of the scene."""

    left: int = 0
    top: int = 0
    right: int = SIDE
    bottom: int = SIDE
    scale: float = 1.0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The part that is seen, as Pillow writes boxes."""
        return self.left, self.top, self.right, self.bottom

    @property
    def shift(self) -> tuple[int, int]:
        """How far the image processor, which centers a picture on a square, moves what is seen: right and down."""
        width, height = self.right - self.left, self.bottom - self.top
        return (SIDE - width) // 2 - self.left, (SIDE - height) // 2 - self.top


def random_view(scene: AnyScene, rng: random.Random) -> View:
    """Some pictures are larger than the model reads, and some are not square: people's are neither."""
    scale = rng.choice((1.0, 1.0, 1.5, 2.0))
    if rng.random() >= CROPPED_SHARE:
        return View(scale=scale)
    picture = draw_scene(scene)
    left, top, right, bottom = ImageChops.difference(
        picture, Image.new("RGB", picture.size, scene.background)
    ).getbbox() or (0, 0, SIDE, SIDE)
    if rng.random() < 0.5:
        kept = rng.randint(0, max(0, left - MARGIN)), rng.randint(min(SIDE, right + MARGIN), SIDE)
        return View(left=kept[0], right=kept[1], scale=scale)
    kept = rng.randint(0, max(0, top - MARGIN)), rng.randint(min(SIDE, bottom + MARGIN), SIDE)
    return View(top=kept[0], bottom=kept[1], scale=scale)


def draw_scene(scene: AnyScene, view: View | None = None) -> Image.Image:
    """The picture of a scene: RGB, `SIDE` x `SIDE` pixels unless the view says otherwise."""
    view = view or View()
    scale = view.scale
    image = Image.new("RGB", (round(SIDE * scale), round(SIDE * scale)), scene.background)
    draw = ImageDraw.Draw(image)
    for part in parts(scene):
        if isinstance(part, Shape):
            draw_shape(draw, part, COLORS[part.color], scale)
        elif isinstance(part, Text):
            draw_text(draw, part, scale)
        else:
            corners = (part.left, part.top, part.right, part.bottom)
            draw.rectangle([scale * edge for edge in corners], fill=COLORS[part.color])
    return image.crop(tuple(round(scale * edge) for edge in view.box))  # type: ignore[arg-type]


def draw_text(draw: ImageDraw.ImageDraw, text: Text, scale: float = 1) -> None:
    """Writes one line of text."""
    place, face = (scale * text.x, scale * text.y), font(text.font, round(scale * text.size))
    anchor = "mm" if text.centered else "lm"
    draw.text(place, text.text, fill=COLORS[text.color], font=face, anchor=anchor)


def draw_shape(draw: ImageDraw.ImageDraw, shape: Shape, fill: Any, scale: float = 1) -> None:
    """Draws one filled shape.

    Raises:
        ValueError: an unknown shape.
    """
    x, y, radius = scale * shape.x, scale * shape.y, scale * shape.size / 2
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape.shape == "circle":
        draw.ellipse(box, fill=fill)
    elif shape.shape == "square":
        inset = radius * 0.12  # a square looks larger than a circle of its width
        draw.rectangle((box[0] + inset, box[1] + inset, box[2] - inset, box[3] - inset), fill=fill)
    elif shape.shape in CORNERS:
        corners = [(x + across * radius, y + down * radius) for across, down in CORNERS[shape.shape]]
        draw.polygon(corners, fill=fill)
    else:
        raise ValueError(f"The shape is {shape.shape!r}; expected circle, square or {', '.join(CORNERS)}.")


def _star() -> list[tuple[float, float]]:
    points = ((radius, math.pi * (number / 5 - 0.5)) for number, radius in enumerate([1.0, 0.42] * 5))
    return [(radius * math.cos(angle), radius * math.sin(angle)) for radius, angle in points]


_ARM = 0.32
CORNERS: dict[str, list[tuple[float, float]]] = {
    "triangle": [(0, -0.95), (1, 0.85), (-1, 0.85)],
    "diamond": [(0, -1), (0.75, 0), (0, 1), (-0.75, 0)],
    "star": _star(),
    "cross": [
        *((-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM)),
        *((_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM)),
    ],
}


def _chart_parts(scene: ChartScene) -> list[Part]:
    floor, top, left, right = 218, 58, 26, 246
    result: list[Part] = [
        Text(scene.title, "black", scene.font, SIDE // 2, 18, 18, centered=True),
        Box("black", left, floor, right, floor + 1),
        Box("black", left, top - 10, left + 1, floor),
    ]
    step = (right - left) / len(scene.bars)
    for number, bar in enumerate(scene.bars):
        middle = left + step * (number + 0.5)
        height = (floor - top) * bar.value / 20
        result.append(Box(bar.color, middle - step * 0.3, floor - height, middle + step * 0.3, floor - 1))
        above = round(floor - height - 10)
        result.append(Text(str(bar.value), "black", scene.font, round(middle), above, CHART_TEXT, True))
        result.append(Text(bar.label, "black", scene.font, round(middle), floor + 14, CHART_TEXT, True))
    return result
