"""Draws the example pictures, whose strings and scenes the small models never saw. Run it to make them anew."""

from pathlib import Path

from nano.drawing import View, draw_scene
from nano.scenes import Bar, ChartScene, Scene, Shape, ShapeScene, Text, TextScene
from nano_vl2.boards import Board
from nano_vl2.pictures import draw

# Here, where README and docs show them, and in the package, where `example_picture` finds them.
FOLDERS = (
    Path(__file__).parent / "pictures",
    Path(__file__).parents[1] / "src" / "deepseek_vl_hf" / "nano" / "pictures",
)

SHAPES = ShapeScene(
    background=(243, 240, 232),
    shapes=(
        Shape("circle", "red", 52, 76, 56),
        Shape("square", "blue", 196, 82, 54),
        Shape("star", "green", 128, 60, 50),
        Shape("triangle", "orange", 60, 204, 46),
    ),
    caption=None,
)
WORDS = TextScene(
    background=(250, 247, 238),
    texts=(
        Text("OPEN", "red", "DejaVuSans-Bold", 40, 48, 40),
        Text("7BKC", "blue", "DejaVuSansMono", 120, 128, 24),
        Text("1276", "black", "DejaVuSerif", 30, 206, 15),
    ),
)
CHART = ChartScene(
    background=(246, 248, 252),
    bars=(Bar("A", "blue", 9), Bar("K", "orange", 17), Bar("M", "green", 4)),
    title="SALE",
    font="DejaVuSans",
)
# For nano-vl2, 224 x 224 pixels: four tiles. In the package alone, because nano is asked about all that lies here.
PLACES = Board(
    shapes=(
        Shape("star", "green", 62, 112, 54),
        Shape("circle", "red", 162, 54, 60),
        Shape("circle", "blue", 58, 184, 48),
        Shape("triangle", "orange", 162, 164, 58),
    ),
    texts=(),
    width=224,
    height=224,
    background=(244, 246, 240),
)
# 640 x 640, 640 x 640 and 512 x 496 pixels.
PICTURES: dict[str, tuple[Scene, View]] = {
    "shapes": (SHAPES, View(scale=2.5)),
    "words": (WORDS, View(scale=2.5)),
    "chart": (CHART, View(bottom=248, scale=2)),
}


def main() -> None:
    """Writes the pictures."""
    for folder in FOLDERS:
        folder.mkdir(exist_ok=True)
        for name, (scene, view) in PICTURES.items():
            draw_scene(scene, view).save(folder / f"{name}.png", optimize=True)
    draw(PLACES.picture).save(FOLDERS[1] / "places.png", optimize=True)


if __name__ == "__main__":
    main()
