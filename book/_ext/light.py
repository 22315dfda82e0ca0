"""Make the pages light: one script, one style sheet without the rules that no page uses, and a font of few icons."""

import logging
import re
import shutil
from pathlib import Path

import pydata_sphinx_theme
import tinycss2
from fontTools import subset
from fontTools.ttLib import TTFont

# What Jupyter Book adds to every page and nothing here uses (thebe would ask another host).
UNUSED = ("thebe", "design-tabs", "sphinx-design", "DOCUMENTATION_OPTIONS.pagename")
THEME_STYLES = ["basic.css", "styles/bootstrap.css", "styles/pydata-sphinx-theme.css"]
THEME_SCRIPTS = ["scripts/bootstrap.js", "scripts/pydata-sphinx-theme.js"]
ICONS = "theme/pydata_sphinx_theme/static/vendor/fontawesome/6.5.2/webfonts/fa-solid-900.ttf"
# MathJax is most of a page's weight: it comes after everything else.
LATE = (
    'addEventListener("load", () => document.head.append(Object.assign(document.createElement("script"), {src: "%s"})))'
)

MENDED = {
    # What is left of thebe: its settings, and the name of the kernel.
    r'<script type="text/x-thebe-config">.*?</script>\s*<script>.*?</script>': "",
    # For keyboard and screen reader: a wide table can be scrolled, a fold is named by its own words, no empty header.
    r'<div class="pst-scrollable-table-container">': '<div class="pst-scrollable-table-container" tabindex="0">',
    r'<summary aria-label="Toggle hidden content">': "<summary>",
    r'<th class="head"><p></p></th>': "<td></td>",
}


def setup(app):
    """Connect the two steps."""
    app.connect("html-page-context", trim, priority=900)
    app.connect("build-finished", join, priority=900)  # the theme writes its colours of code at the end of a build
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def trim(app, pagename, templatename, context, doctree):
    """Take the scripts and styles that `join` joins out of a page."""
    scripts = [file for file in context["script_files"] if used(f"{file.filename} {file.attributes.get('body')}")]
    styles = [str(file.filename) for file in context["css_files"] if used(str(file.filename))]
    own = [file for file in scripts if file.filename and "mathjax" not in str(file.filename)]
    app.builder.joined = ([str(file.filename) for file in own] + THEME_SCRIPTS, THEME_STYLES + styles)
    context["css_files"] = []
    if pagename == "search":  # the scripts in the middle of this page need those before them
        context["script_files"] = scripts
        return
    kind = type(scripts[0])
    page = [file for file in scripts if not file.filename]
    page += [kind("_static/all.js", defer="defer")]
    if any("mathjax" in str(file.filename) for file in scripts):
        page += [kind("", body=LATE % context["pathto"](f"_static/{app.config.mathjax_path}", 1))]
    context["script_files"] = page
    for pattern, instead in MENDED.items():
        context["body"] = re.sub(pattern, instead, context.get("body", ""), flags=re.S)


def used(name):
    """Say whether a script or a style is of use here."""
    return not any(part in name for part in UNUSED)


def join(app, error):
    """Write `all.js`, `all.css` and `icons.woff`, which every page asks for."""
    joined = getattr(app.builder, "joined", None)
    if error or not joined:  # no page was written: nothing has changed
        return
    folder = Path(app.outdir) / "_static"
    scripts, styles = ([name.removeprefix("_static/").partition("?")[0] for name in names] for names in joined)
    scripts = ["documentation_options.js", *(name for name in scripts if name != "documentation_options.js")]
    (folder / "all.js").write_text("\n;\n".join(read(folder, scripts)), encoding="utf-8")
    pages = [path.read_text(encoding="utf-8") for path in folder.parent.rglob("*.html")]
    words = set(re.findall(r"[\w-]+", "\n".join([*pages, *read(folder, scripts)])))
    rules = tinycss2.parse_stylesheet("\n".join(read(folder, styles)), skip_comments=True, skip_whitespace=True)
    text = "\n".join(needed(rules, words))
    (folder / "all.css").write_text(text, encoding="utf-8")
    write_icons({ord(icon) for icon in re.findall("[\ue000-\uf8ff]", text)}, folder / "icons.woff")
    shutil.rmtree(folder / "vendor" / "fontawesome", ignore_errors=True)


def read(folder, names):
    """Return the texts of the files, each once."""
    return [(folder / name).read_text(encoding="utf-8") for name in dict.fromkeys(names)]


def needed(rules, words):
    """Yield the rules of a style sheet that may apply: every class that they name stands in a page or a script."""
    for rule in rules:
        if rule.type == "qualified-rule":
            kept = [one for one in split(rule.prelude) if classes(one) <= words]
            if kept:
                yield ",".join(kept) + body(rule)
        elif rule.type == "at-rule" and rule.lower_at_keyword in ("media", "supports") and rule.content:
            inner = tinycss2.parse_rule_list(rule.content, skip_comments=True, skip_whitespace=True)
            inside = "".join(needed(inner, words))
            if inside:
                yield f"@{rule.at_keyword}{tinycss2.serialize(rule.prelude)}{{{inside}}}"
        elif rule.type == "at-rule":
            yield rule.serialize()


def split(prelude):
    """Return the selectors of a list, parted at the commas that stand in no bracket."""
    parts = [[]]
    for token in prelude:
        if token == ",":
            parts.append([])
        else:
            parts[-1].append(token)
    return [tinycss2.serialize(part).strip() for part in parts]


def classes(selector):
    """Return the class names that an element must have; what stands in :not() and its like does not count."""
    bare = re.sub(r"\([^()]*(\([^()]*\)[^()]*)*\)", "", selector)
    return {name.replace("\\", "") for name in re.findall(r"\.((?:[\w-]|\\.)+)", re.sub(r"\[[^]]*\]", "", bare))}


def body(rule):
    """Return the braces of a rule."""
    return "{" + tinycss2.serialize(rule.content).strip() + "}"


def write_icons(codes, path):
    """Write the characters of the icon font that the styles use."""
    logging.getLogger("fontTools").setLevel(logging.WARNING)  # it reports every table that it leaves out
    font = TTFont(Path(pydata_sphinx_theme.__file__).parent / ICONS)
    options = subset.Options(flavor="woff", name_IDs=[], hinting=False)
    chooser = subset.Subsetter(options)
    chooser.populate(unicodes=codes)
    chooser.subset(font)
    subset.save_font(font, path, options)
