"""Live figures: one call that is a widget in JupyterLab and plain HTML with a slider on the static site.

In the site build there is no kernel behind the page, so every picture of the grid is drawn beforehand and written into
the page as SVG; a few lines of classic JavaScript (`book/_web/explore.js`) put the chosen one into view.
"""

import hashlib
import html
import io
import itertools
import json
import math
import numbers
import os
import re
from collections.abc import Callable
from xml.etree import ElementTree

import ipywidgets
import matplotlib.pyplot as plt
from IPython.display import HTML

MAX_PICTURES = 60
SITE = "VLIB_SITE"  # the Sphinx extension sets it; the kernels that the build starts inherit it

# Drawn 4.8 inches wide, a label of 10 points is still about 10 pixels high on a phone 360 pixels wide.
STYLE = {"figure.figsize": (4.8, 3.0), "figure.dpi": 96, "figure.constrained_layout.use": True, "svg.fonttype": "none"}


def explore(draw: Callable, *, alt: str | Callable[..., str], **controls):
    """Show the picture that `draw` makes, with one control for each of its arguments.

    `draw(**values)` returns the Axes it drew on. A control is a finite sequence of distinct values, at most 60 pictures
    in all; its first value is the default. Numbers become a slider in ascending order, anything else a list to choose
    from. `alt` is the text alternative, or a function that returns one for the same values as `draw`.

    With a kernel the result is a widget that calls `draw` as a control moves; in the site build it is HTML that holds
    the whole grid. Without controls it is HTML with the one picture, in both. ValueError for an empty, endless or repeating control, a grid that is too large, an empty `alt`, or
    a `draw` that returns no Axes.

    >>> def line(slope):
    ...     axes = plt.figure().subplots()
    ...     axes.plot([0, 1], [0, slope])
    ...     return axes
    >>> explore(line, alt="A straight line", slope=(2, 1, 3))
    LiveFigure(slope)
    """
    choices = {name: _choices(name, control) for name, control in controls.items()}
    count = 1
    for values, _ in choices.values():
        count *= len(values)
    if count > MAX_PICTURES:
        sizes = " x ".join(str(len(values)) for values, _ in choices.values())
        raise ValueError(f"a grid of {sizes} = {count} pictures; at most {MAX_PICTURES} are allowed")
    return LiveFigure(draw, alt, choices) if choices and not os.environ.get(SITE) else _page(draw, alt, choices)


class LiveFigure(ipywidgets.VBox):
    """A picture with its controls, redrawn by the kernel."""

    def __init__(self, draw, alt, choices):
        self._draw, self._alt = draw, alt
        self._picture = ipywidgets.HTML()
        self._controls = {}
        for name, (values, default) in choices.items():
            kind = ipywidgets.SelectionSlider if _numeric(values) else ipywidgets.Dropdown
            options = [(_label(value), value) for value in values]
            self._controls[name] = kind(
                options=options, index=default, description=_words(name), style={"description_width": "initial"}
            )
            self._controls[name].observe(self._redraw, names="index")
        super().__init__([self._picture, *self._controls.values()])
        self._redraw()

    def __repr__(self):
        # A widget's own repr holds the whole picture, which would make the output of a cell differ from run to run.
        return f"LiveFigure({', '.join(self._controls)})"

    def _redraw(self, _change=None):
        values = {name: control.value for name, control in self._controls.items()}
        text = _alt_text(self._alt, values)
        svg = _svg(self._draw, values)
        name = f"live-{hashlib.sha256(svg.encode()).hexdigest()[:8]}"
        classes = {}
        picture = _slim(svg, text, name, classes)
        self._picture.value = f'<div id="{name}">{_style(name, classes)}{picture}</div>'


def _choices(name: str, control) -> tuple[list, int]:
    """Return the values of a control in the order shown, and the index of its default."""
    if isinstance(control, str | bytes | dict | set | frozenset) or not hasattr(control, "__len__"):
        raise ValueError(f"control {name}={control!r} is not a finite sequence of values")
    values = list(control)
    if not values:
        raise ValueError(f"control {name} is empty; it needs at least one value, the default first")
    labels = [_label(value) for value in values]
    if len(set(labels)) < len(labels):
        raise ValueError(f"control {name}={values!r} repeats a value")
    shown = sorted(values) if _numeric(values) else values
    return shown, [_label(value) for value in shown].index(labels[0])


def _numeric(values: list) -> bool:
    return all(isinstance(v, numbers.Real) and not isinstance(v, bool) and math.isfinite(v) for v in values)


def _label(value) -> str:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return str(value)
    return f"{value:,}" if isinstance(value, numbers.Integral) else f"{float(value):,.10g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _alt_text(alt, values: dict) -> str:
    text = alt(**values) if callable(alt) else alt
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"alt gives {text!r} for {values}; it must be a sentence that says what the picture shows")
    return text.strip()


# --- a picture ------------------------------------------------------------------------------------------------------


def _svg(draw: Callable, values: dict) -> str:
    """Draw once and return the SVG as matplotlib writes it."""
    with plt.rc_context(STYLE):
        try:
            axes = draw(**values)
        except Exception as error:
            error.add_note(f"while drawing {values}")
            raise
        figure = getattr(axes, "figure", None)
        if figure is None:
            raise ValueError(f"draw({values}) returned {axes!r}; it must return the Axes that it drew on")
        text = io.StringIO()
        figure.savefig(text, format="svg", facecolor="none", metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()


def _slim(svg: str, alt: str, prefix: str, classes: dict[str, str]) -> str:
    """Return the picture for use inside a page: short, ids that start with `prefix`, colours that follow the theme.

    `classes` maps a style to the name of its class; styles that are new are added, so that pictures share them.
    """
    root = ElementTree.fromstring(svg)  # the default parser leaves comments out
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.endswith(("}metadata", "}style")) or (_bare(child.tag) == "g" and not len(child)):
                parent.remove(child)
    # matplotlib's ids are random: keep those that something refers to, and number them in order.
    used = list(dict.fromkeys(re.findall(r'(?:url\(#|href="#)([^)"]+)', svg)))
    names = {old: f"{prefix}-{number}" for number, old in enumerate(used)}
    for element in root.iter():
        element.tag = _bare(element.tag)
        attributes = {_bare(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        if element is root:
            width, height = (float(number) for number in attributes["viewBox"].split()[2:])
            # Below nine tenths of its size the labels would be too small to read: then the picture scrolls in its box.
            size = f"width:100%;min-width:{0.9 * width:.0f}px;max-width:{1.6 * width:.0f}px"
            root.attrib = {"role": "img", "aria-label": alt, "viewBox": f"0 0 {width:g} {height:g}", "style": size}
            continue
        for key, value in attributes.items():
            if key == "id":
                if value in names:
                    element.set(key, names[value])
            elif key == "style":
                words = element.tag in ("text", "tspan")
                style = ";".join(filter(None, (_declaration(part, words) for part in value.split(";"))))
                if style:
                    element.set("class", classes.setdefault(style, f"s{len(classes)}"))
            elif key == "d":
                element.set(key, re.sub(r"\s*([A-Za-z])\s*", r"\1", _rounded(value, 1)).strip())
            elif key in ("x", "y", "width", "height") and element.tag != "image":
                element.set(key, _rounded(value, 2))
            elif key == "transform":
                if not value.startswith("rotate(-0 "):
                    element.set(key, _rounded(value, 2))
            else:
                element.set(key, re.sub(r"(?<=#)[^)]+", lambda match: names.get(match[0], match[0]), value))
    _unwrap(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return re.sub(r">\s+<", "><", text).replace(" />", "/>")


def _bare(name: str) -> str:
    return name.rpartition("}")[2]


def _unwrap(element) -> None:
    """Replace each group that carries nothing by its children."""
    children = []
    for child in element:
        _unwrap(child)
        children.extend(child if child.tag == "g" and not child.attrib else [child])
    element[:] = children


def _rounded(text: str, digits: int) -> str:
    def short(match):
        number = f"{float(match[0]):.{digits}f}"
        number = number.rstrip("0").rstrip(".") if "." in number else number
        return "0" if number == "-0" else number

    return re.sub(r"-?\d+\.\d+(?:e-?\d+)?", short, text)


def _declaration(part: str, words: bool) -> str:
    """Return one CSS declaration in short form; colours between black and white follow the page's ink and paper.

    In `words` a middle grey is darkened and a colour is drawn towards the ink, so that they can be read in both themes.
    """
    name, _, value = (text.strip() for text in part.partition(":"))
    if name == "font":  # the page's own font, in the size, slant and weight that were asked for
        slant = "font-style:italic;" if "italic" in value or "oblique" in value else ""
        weight = "font-weight:bold;" if re.search(r"\b(bold|[6-9]00)\b", value) else ""
        return slant + weight + "font-size:" + re.search(r"[\d.]+px", value)[0]
    grey = re.fullmatch(r"#(..)\1\1", value)
    if grey:
        light = int(grey[1], 16) * 100 / 255
        light = 33 if words and 33 < light < 75 else light
        value = f"color-mix(in srgb,var(--paper) {light:.3g}%,var(--ink))"
        value = {"00": "var(--ink)", "ff": "var(--paper)"}.get(grey[1], value)
    elif words and re.fullmatch(r"#\w{6}", value):
        value = f"color-mix(in srgb,{value} 75%,var(--ink))"
    elif name == "font-family":
        return ""
    elif re.fullmatch(r"[-\d. ,]+", value):
        value = _rounded(value, 3)
    return f"{name}:{value}" if name else ""


def _style(name: str, classes: dict[str, str]) -> str:
    ink = "var(--pst-color-text-base,var(--jp-ui-font-color1,#000))"
    paper = "var(--pst-color-background,var(--jp-layout-color0,#fff))"
    rules = [f"#{name}{{--ink:{ink};--paper:{paper};overflow-x:auto}}"]
    rules += [f"#{name} svg{{fill:var(--ink);font-family:system-ui,sans-serif}}"]
    rules += [f"#{name} svg *{{stroke-linejoin:round;stroke-linecap:butt;white-space:pre}}"]
    rules += [f"#{name} .{number}{{{style}}}" for style, number in classes.items()]
    return f"<style>{''.join(rules)}</style>"


# --- the static page ------------------------------------------------------------------------------------------------


def _page(draw: Callable, alt, choices: dict) -> HTML:
    """Draw the whole grid and return it as HTML."""
    grid = [dict(zip(choices, values, strict=True)) for values in itertools.product(*(v for v, _ in choices.values()))]
    alts = [_alt_text(alt, values) for values in grid]
    classes: dict[str, str] = {}
    # The name is taken from the content: the same pictures give the same bytes, and two figures of a page differ.
    drafts = [_slim(_svg(draw, values), alt, "@", classes) for values, alt in zip(grid, alts, strict=True)]
    name = "live-" + hashlib.sha256(json.dumps([list(choices), drafts]).encode()).hexdigest()[:8]
    pictures = [re.sub(r'(#|id=")@', rf"\g<1>{name}-{index}", draft) for index, draft in enumerate(drafts)]
    shown = 0
    for values, default in choices.values():
        shown = shown * len(values) + default
    picture, pictures[shown] = pictures[shown], None  # it is in the page already
    figure = f'<figure class="live-figure">{_style(name, classes)}<div class="picture" id="{name}">{picture}</div>'
    if not choices:
        return HTML(f"{figure}</figure>")
    labels = [[_label(value) for value in values] for values, _ in choices.values()]
    data = {"labels": labels, "pictures": pictures}
    # "</" would end the script element early.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    controls = "".join(_control(name, key, *choice) for key, choice in choices.items())
    return HTML(
        f'{figure}<form autocomplete="off">{controls}</form><p class="said" aria-live="polite"></p>'
        f'<script type="application/json">{text}</script></figure>'
    )


def _control(figure: str, name: str, values: list, default: int) -> str:
    key = f"{figure}-{name}"
    label = f'<label for="{key}">{html.escape(_words(name))}</label>'
    labels = [html.escape(_label(value)) for value in values]
    if _numeric(values):
        attributes = f'min="0" max="{len(values) - 1}" value="{default}" aria-valuetext="{labels[default]}"'
        return f'{label}<input type="range" id="{key}" {attributes}><span aria-hidden="true">{labels[default]}</span>'
    options = "".join(
        f'<option value="{index}"{" selected" if index == default else ""}>{text}</option>'
        for index, text in enumerate(labels)
    )
    return f'{label}<select id="{key}">{options}</select><span></span>'
