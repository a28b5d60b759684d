"""Charts drawn with PIL, the same bytes for the same figures."""

from PIL import Image, ImageDraw, ImageFont

SCALE = 2  # drawn twice as large: documents show it at half its size, sharp on any screen
BACKGROUND, INK, FAINT, RULE = (252, 252, 250), (24, 24, 28), (96, 96, 104), (220, 220, 216)
BLUE, RED, GREY = (58, 110, 165), (190, 92, 70), (150, 150, 156)


def sheet(width: int, height: int) -> tuple[Image.Image, "Pen"]:
    """An empty picture, and the pen that draws on it."""
    image = Image.new("RGB", (width * SCALE, height * SCALE), BACKGROUND)
    return image, Pen(ImageDraw.Draw(image))


class Pen:
    """Draws in the units of the finished picture."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw

    def text(self, x: float, y: float, text: str, size: int, colour: tuple[int, int, int], anchor: str = "lt") -> None:
        self.draw.text((x * SCALE, y * SCALE), text, colour, ImageFont.load_default(size * SCALE), anchor=anchor)

    def width(self, text: str, size: int) -> float:
        """How wide a text is."""
        return ImageFont.load_default(size * SCALE).getlength(text) / SCALE

    def line(self, x: float, y: float, x2: float, y2: float, colour: tuple[int, int, int]) -> None:
        self.draw.line([x * SCALE, y * SCALE, x2 * SCALE, y2 * SCALE], colour, SCALE)

    def dot(self, x: float, y: float, radius: float, colour: tuple[int, int, int]) -> None:
        self.draw.circle((x * SCALE, y * SCALE), radius * SCALE, colour)

    def bar(self, x: float, y: float, x2: float, y2: float, colour: tuple[int, int, int]) -> None:
        self.draw.rounded_rectangle([x * SCALE, y * SCALE, x2 * SCALE, y2 * SCALE], 2 * SCALE, colour)
