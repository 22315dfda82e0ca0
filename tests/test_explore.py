"""Live figures: the same call as a widget with a kernel, and as HTML without one."""

import itertools
import json
import re
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlib import explore as module
from vlib.explore import explore


def line(slope=1, shape="solid"):
    axes = plt.figure(figsize=(2, 1)).subplots()
    axes.plot([0, 1], [0, slope], linestyle=shape)
    axes.set_title(f"slope {slope}")
    return axes


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("VLIB_SITE", "1")


class Tree(HTMLParser):
    """What a browser has in its tree: everything but the content of script elements."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.data, self.styles = [], "", ""
        self._inside = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    handle_startendtag = handle_starttag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside == "script":
            self.data += data
        elif self._inside == "style":
            self.styles += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        ({"slope": ()}, "control slope is empty"),
        ({"slope": "123"}, "control slope='123' is not a finite sequence"),
        ({"slope": {1, 2}}, "not a finite sequence"),
        ({"slope": itertools.count()}, "not a finite sequence"),
        ({"slope": 5}, "control slope=5 is not a finite sequence"),
        ({"slope": (1, 2, 1)}, "repeats a value"),
        ({"slope": range(61)}, "61 = 61 pictures; at most 60"),
        ({"slope": range(8), "shape": range(8)}, "8 x 8 = 64 pictures; at most 60"),
    ],
)
def test_bad_controls_are_refused_before_anything_is_drawn(controls, message):
    def never(**_):
        raise AssertionError("drawn")

    with pytest.raises(ValueError, match=re.escape(message)):
        explore(never, alt="nothing", **controls)


@pytest.mark.parametrize("alt", ["", "  ", lambda slope: None])
@pytest.mark.parametrize("environment", ["", "1"])
def test_a_figure_without_a_text_alternative_is_refused(alt, environment, monkeypatch):
    monkeypatch.setenv("VLIB_SITE", environment)
    with pytest.raises(ValueError, match="must be a sentence"):
        explore(line, alt=alt, slope=(1, 2))


def test_a_draw_that_returns_no_axes_is_refused():
    with pytest.raises(ValueError, match=r"returned None; it must return the Axes"):
        explore(lambda slope: None, alt="nothing", slope=(1, 2))


def test_an_error_of_draw_says_at_which_values(site):
    with pytest.raises(ZeroDivisionError) as caught:
        explore(lambda slope: 1 / slope, alt="x", slope=(0,))
    assert caught.value.__notes__ == ["while drawing {'slope': 0}"]


def test_sixty_pictures_are_allowed(site):
    axes = plt.figure(figsize=(1, 1)).subplots()
    tree = Tree(explore(lambda n: axes, alt="the same", n=range(60)).data)
    assert len(json.loads(tree.data)["pictures"]) == 60


def test_the_widget_calls_draw_when_a_control_moves():
    calls = []

    def draw(**values):
        calls.append(values)
        return line(**values)

    figure = explore(draw, alt=lambda slope, shape: f"{shape} {slope}", slope=(2, 1, 3), shape=("solid", "dashed"))
    assert calls == [{"slope": 2, "shape": "solid"}]
    picture, slope, shape = figure.children
    assert slope.options == (("1", 1), ("2", 2), ("3", 3)), "numbers ascend on the slider"
    assert 'aria-label="solid 2"' in picture.value and "slope 2" in picture.value
    slope.index = 2
    shape.value = "dashed"
    assert calls[1:] == [{"slope": 3, "shape": "solid"}, {"slope": 3, "shape": "dashed"}]
    assert 'aria-label="dashed 3"' in picture.value and "slope 3" in picture.value
    assert repr(figure) == "LiveFigure(slope, shape)"


def test_the_page_shows_the_default_and_keeps_the_rest_out_of_its_tree(site):
    page = explore(line, alt=lambda slope, shape: f"{shape} {slope}", slope=(2, 1, 3), shape=("solid", "dashed")).data
    tree = Tree(page)
    (svg,) = tree.all("svg")
    assert svg["role"] == "img" and svg["aria-label"] == "solid 2"
    (slider,) = tree.all("input")
    assert {key: slider[key] for key in ("type", "min", "max", "value", "aria-valuetext")} == {
        "type": "range", "min": "0", "max": "2", "value": "1", "aria-valuetext": "2"
    }  # fmt: skip
    (select,) = tree.all("select")
    assert {label["for"] for label in tree.all("label")} == {slider["id"], select["id"]}
    data = json.loads(tree.data)
    assert data["labels"] == [["1", "2", "3"], ["solid", "dashed"]]
    alts = [picture and Tree(picture).all("svg")[0]["aria-label"] for picture in data["pictures"]]
    assert alts == ["solid 1", "dashed 1", None, "dashed 2", "solid 3", "dashed 3"]
    assert all("slope 3" in picture for picture in data["pictures"][4:])


def test_text_stays_text_and_bytes_are_the_same_every_time(site):
    first, second = (explore(line, alt="A line", slope=(1, 2)).data for _ in range(2))
    assert first == second
    assert ">slope 1</text>" in first
    assert not re.search(r"\d{4}-\d\d-\d\d|matplotlib|<metadata", first), "no date and no tool in a picture"


@pytest.mark.parametrize("environment", ["", "1"])
def test_without_controls_one_picture_with_its_text_stands_still_in_both_lives(environment, monkeypatch):
    monkeypatch.setenv("VLIB_SITE", environment)
    tree = Tree(explore(line, alt="A line").data)
    (svg,) = tree.all("svg")
    assert svg["role"] == "img" and svg["aria-label"] == "A line"
    assert not any(tree.all(tag) for tag in ("form", "input", "select", "script"))
    with pytest.raises(ValueError, match="must be a sentence"):
        explore(line, alt=" ")


def test_figures_are_closed(site):
    before = plt.get_fignums()
    explore(line, alt="A line", slope=(1, 2, 3))
    assert plt.get_fignums() == before


def test_ids_of_two_figures_on_one_page_never_meet_and_every_reference_has_its_target(site):
    pages = [explore(line, alt="A line", slope=slopes).data for slopes in ((1, 2), (1, 3))]
    seen = set()
    for page in pages:
        tree = Tree(page)
        pictures = [picture for picture in json.loads(tree.data)["pictures"] if picture] + [page.split("<script")[0]]
        for picture in pictures:
            ids = set(re.findall(r'\bid="([^"]+)"', picture))
            assert not ids & seen
            seen |= ids
            used = set(re.findall(r'url\(#([^)]+)|href="#([^"]+)', picture))
            assert used and {a or b for a, b in used} <= ids


def test_no_value_or_title_can_end_the_script_or_add_markup(site):
    evil = '</script><b onload=x>&"'

    def draw(what):
        axes = line()
        axes.set_title(what)
        return axes

    tree = Tree(explore(draw, alt=lambda what: f"shows {what}", what=("plain", evil)).data)
    assert not tree.all("b")
    assert json.loads(tree.data)["labels"] == [["plain", evil]]
    (svg,) = Tree(explore(draw, alt=lambda what: f"shows {what}", what=(evil, "plain")).data).all("svg")
    assert svg["aria-label"] == f"shows {evil}"


def test_black_white_and_greys_follow_the_theme_and_other_colours_stay(site):
    def draw(n):
        figure = plt.figure(figsize=(2, 1))
        axes = figure.subplots()
        for at, colour in enumerate(["black", "white", "#808080", "#1f77b4"]):
            axes.plot([0, 1], [at, at], color=colour)
        axes.bar([0], [1], color="black")
        axes.text(0, 0, "note", color="#808080")
        axes.text(0, 0, "hue", color="#ff0000")
        return axes

    tree = Tree(explore(draw, alt="Lines", n=(1,)).data)
    assert set(re.findall(r"#[0-9a-f]{6}", tree.styles.replace("#live-", ""))) == {"#1f77b4", "#ff0000"}
    assert "fill:color-mix(in srgb,var(--paper) 33%,var(--ink))" in tree.styles, "grey words are darker than grey lines"
    assert "fill:color-mix(in srgb,#ff0000 75%,var(--ink))" in tree.styles
    assert "color-mix(in srgb,var(--paper) 50.2%,var(--ink))" in tree.styles
    assert "stroke:var(--ink)" in tree.styles and "stroke:var(--paper)" in tree.styles
    # What matplotlib leaves black by saying nothing takes the ink from the picture.
    assert re.search(r"svg\{fill:var\(--ink\)", tree.styles)


def test_numpy_values_and_large_numbers_are_labelled_plainly(site):
    def labels(values):
        return json.loads(Tree(explore(lambda n: line(), alt="A line", n=values).data).data)["labels"][0]

    assert labels(np.array([0.1, 0.30000000000000004])) == ["0.1", "0.3"]
    assert labels([16_777_216, 4096]) == ["4,096", "16,777,216"]
    assert labels([False, True]) == ["False", "True"]
    assert labels([np.int64(4096), np.int64(1)]) == ["1", "4,096"]


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6), st.integers(0, 3))
def test_rounding_keeps_a_coordinate_to_half_of_its_last_digit(number, digits):
    text = f"M {number:.6f} L"
    rounded = float(re.search(r"-?[\d.]+", module._rounded(text, digits))[0])
    assert abs(rounded - number) <= 0.5 * 10**-digits + 1e-6


def test_the_slim_picture_draws_what_matplotlib_drew():
    raw = module._svg(line, {"slope": 1})
    slim = module._slim(raw, "A line", "p", {})
    assert len(slim) < len(raw) / 2

    def points(svg):
        return [float(n) for d in re.findall(r'<path[^>]* d="([^"]+)"', svg) for n in re.findall(r"-?[\d.]+", d)]

    order = sorted(points(raw))
    assert len(points(slim)) == len(order)
    assert np.allclose(sorted(points(slim)), order, atol=0.051)
