"""A picture of two tiles beside each other: a star in the first, a circle and a string in the second."""

from nano.scenes import Shape, Text
from nano_vl2.pictures import TILE, Picture

SCENE = Picture(
    (
        Shape("star", "red", 40, 30, 30),
        Shape("circle", "blue", 170, 90, 24),
        Text("7B", "black", "DejaVuSans", 150, 30, 20),
    ),
    2 * TILE,
    TILE,
    (255, 255, 255),
)
