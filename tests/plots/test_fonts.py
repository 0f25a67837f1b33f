import warnings

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure

from tlkit.plots import fonts as fonts_module
from tlkit.plots.fonts import dress, printable

NO_FONT_HAS_IT = "\U0001d2e0"  # a Mayan numeral


@pytest.fixture
def font_with_a_glyph(tmp_path, monkeypatch):
    """Installs a font with a character that no other font has."""
    pen = TTGlyphPen(None)
    for index, point in enumerate([(0, 0), (500, 0), (500, 700), (0, 700)]):
        (pen.lineTo if index else pen.moveTo)(point)
    pen.closePath()
    box = pen.glyph()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "box"])
    builder.setupCharacterMap({ord(NO_FONT_HAS_IT): "box"})
    builder.setupGlyf({".notdef": box, "box": box})
    builder.setupHorizontalMetrics({".notdef": (600, 0), "box": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Rare Sans", "styleName": "Regular"})
    builder.setupOS2(usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "rare.ttf")
    fonts = font_manager.fontManager
    monkeypatch.setattr(fonts, "ttflist", list(fonts.ttflist))
    fonts.addfont(tmp_path / "rare.ttf")
    clear_caches()
    yield
    clear_caches()


def clear_caches():
    for cached in (fonts_module._family_of, fonts_module._candidates, fonts_module._characters):
        cached.cache_clear()


def draw(name):
    figure = Figure(figsize=(3, 1))
    text = figure.text(0.1, 0.5, printable(name))
    dress(text)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.canvas.draw()
    return text


def test_a_character_that_no_font_has_becomes_its_code_point():
    assert printable(NO_FONT_HAS_IT * 2) == "U+1D2E0 U+1D2E0"
    assert printable(f"a{NO_FONT_HAS_IT} b") == "a U+1D2E0 b"
    draw(NO_FONT_HAS_IT)


def test_an_installed_font_with_the_character_is_used(font_with_a_glyph):
    assert printable(f"a{NO_FONT_HAS_IT}") == f"a{NO_FONT_HAS_IT}"
    assert draw(f"a{NO_FONT_HAS_IT}").get_fontfamily() == ["DejaVu Sans", "Rare Sans"]


@pytest.mark.parametrize(
    "name",
    ["中文", "قطة كبيرة", "חתול", "หมา", "हिन्दी", "cat 😀🦜👩‍🔬", "a\ufe0f", "x\u202ey",
     "tab\tline\n", "\udcff\x00", "\ue000", "e\u0301", "a$b$c", r"\alpha_{2}", "_hidden", "",
     "𝔄", "\U0010ffff"],
)  # fmt: skip
def test_any_name_is_drawn_without_a_warning(name):
    draw(name)


def test_dollar_signs_are_literal():
    assert draw("$x^2$").get_window_extent().width > draw("x^2").get_window_extent().width


@pytest.mark.parametrize("limit", [4, 9, 16, 28])
@pytest.mark.parametrize("name", ["n02085620-Chihuahua, long-haired", "a" * 99, "é" * 40])
def test_long_names_lose_their_middle(name, limit):
    shown = printable(name, limit)
    assert len(shown) <= limit
    head, tail = shown.split("…")
    assert name.startswith(head)
    assert name.endswith(tail)
    assert head
    assert tail


def test_short_names_are_unchanged():
    assert printable("daisy") == "daisy"
    assert printable("two\n  lines") == "two lines"
    assert printable("قطة", limit=3) == "قطة"
