"""Draws the example pictures: a chart, a page of text and a scene. Run it to make them anew."""

import random
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

FOLDER = Path(__file__).parent / "pictures"

RAINFALL = {"Jan": 42, "Feb": 31, "Mar": 55, "Apr": 68, "May": 90, "Jun": 74}

PAGE = """Notes on the lighthouse

The lamp was lit for the first time on 3 October 1871.
Its light reached 19 miles on a clear night, and the keeper
climbed 142 steps to trim the wick every four hours.

Three families lived on the island in those years. The mail
boat came on Tuesdays, weather permitting, and took back
lobsters, letters and, once, a piano.

Since 1988 the lamp has run on its own. The steps are still
there; so, it is said, is the piano stool."""


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font, so that the pictures come out the same on every machine."""
    return ImageFont.load_default(size)


def chart() -> Image.Image:
    """A bar chart, 960 x 600 pixels: rainfall by month in millimetres."""
    image = Image.new("RGB", (960, 600), "white")
    draw = ImageDraw.Draw(image)
    draw.text((480, 40), "Rainfall in the first half of the year (mm)", font=font(30), fill="black", anchor="mm")
    floor, left, step = 520, 120, 135
    for value in range(0, 101, 20):
        y = floor - value * 4
        draw.line((left - 20, y, 930, y), fill="#dddddd", width=2)
        draw.text((left - 35, y), str(value), font=font(22), fill="#444444", anchor="rm")
    for number, (month, value) in enumerate(RAINFALL.items()):
        x = left + number * step
        draw.rectangle((x, floor - value * 4, x + 80, floor), fill="#2f6db5")
        draw.text((x + 40, floor - value * 4 - 18), str(value), font=font(24), fill="black", anchor="mm")
        draw.text((x + 40, floor + 30), month, font=font(26), fill="black", anchor="mm")
    return image


def page() -> Image.Image:
    """A page of printed text, 800 x 1000 pixels."""
    image = Image.new("RGB", (800, 1000), "#fbf9f3")
    draw = ImageDraw.Draw(image)
    heading, _, body = PAGE.partition("\n\n")
    draw.text((80, 90), heading, font=font(40), fill="#222222")
    draw.multiline_text((80, 190), body, font=font(22), fill="#222222", spacing=16)
    return image


def scene() -> Image.Image:
    """A drawn scene, 1024 x 683 pixels: a house, a tree and two sheep under an evening sky."""
    image = Image.new("RGB", (1024, 683))
    draw = ImageDraw.Draw(image)
    for y in range(683):
        share = min(y / 430, 1)
        draw.line((0, y, 1024, y), fill=(round(90 + 150 * share), round(130 + 70 * share), round(190 - 30 * share)))
    draw.ellipse((760, 90, 860, 190), fill="#ffd36b")
    draw.rectangle((0, 430, 1024, 683), fill="#5d8a3c")
    generator = random.Random(0)
    for _ in range(600):
        x, y = generator.randrange(1024), generator.randrange(440, 683)
        draw.line((x, y, x + generator.randrange(-3, 4), y - 8), fill="#4b7530", width=2)
    draw.rectangle((140, 300, 360, 480), fill="#c8553d")
    draw.polygon((110, 300, 250, 190, 390, 300), fill="#5a3a2e")
    draw.rectangle((225, 390, 280, 480), fill="#3c2a20")
    draw.rectangle((165, 335, 210, 375), fill="#fff3c4")
    draw.rectangle((295, 335, 340, 375), fill="#fff3c4")
    draw.rectangle((560, 330, 590, 490), fill="#6b4a2f")
    for x, y in ((510, 240), (570, 200), (620, 250), (560, 290)):
        draw.ellipse((x - 70, y - 60, x + 70, y + 60), fill="#2f6b35")
    for x, y in ((680, 540), (820, 580)):
        draw.ellipse((x, y, x + 100, y + 60), fill="#f4f1ea")
        draw.ellipse((x + 80, y - 10, x + 120, y + 30), fill="#3d3a36")
        for leg in (20, 40, 60, 80):
            draw.line((x + leg, y + 55, x + leg, y + 85), fill="#3d3a36", width=6)
    return image


def main() -> None:
    """Writes the pictures beside this script."""
    FOLDER.mkdir(exist_ok=True)
    for draw in (chart, page, scene):
        draw().save(FOLDER / f"{draw.__name__}.png", optimize=True)


if __name__ == "__main__":
    main()
