"""The few lines of Sphinx that the course needs: fresh outputs, labs without answers, notebooks to download."""

import hashlib
import json
import os
from pathlib import Path

import jupytext
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle


class KeyLabels(BaseLabelStyle):
    """Label a reference by its key, which is what the docstrings cite."""

    def format_labels(self, entries):
        """Return the label of each entry."""
        return [entry.key for entry in entries]


class KeyStyle(Style):
    """List references by author, under their keys."""

    default_label_style = KeyLabels
    default_sorting_style = "author_year_title"


def setup(app):
    """Connect the steps below."""
    register_plugin("pybtex.style.formatting", "keys", KeyStyle)
    os.environ["VLIB_SITE"] = "1"  # inherited by the kernels of the build: vlib.explore writes HTML
    app.add_config_value("course_looks", "", "html")  # a change of it writes every page again
    app.connect("config-inited", key_cache)
    app.connect("config-inited", key_pages)
    app.connect("source-read", hide_answers)
    app.connect("html-page-context", offer_notebook, priority=900)
    app.connect("build-finished", write_notebooks)
    app.connect("build-finished", remove_old_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def key_cache(app, config):
    """Keep outputs in a folder named for the models: the cache itself looks at the cells of a page only."""
    root = Path(app.srcdir)
    digest = hashlib.sha256()
    for path in sorted([*root.glob("vlib/**/*.py"), root / "requirements.txt"]):
        if path.exists():
            digest.update(path.read_bytes())
    # Older ones stay, another build may be at work with them; `make clean` removes them.
    cache = root / "_build" / f".jupyter_cache-{digest.hexdigest()[:12]}"
    config.nb_execution_cache_path = str(cache)


def key_pages(app, config):
    """Write all pages again when a style, a script or a step of the build has changed: Sphinx looks at the texts only."""
    digest = hashlib.sha256()
    for path in sorted(path for part in ("_ext", "_web") for path in (Path(app.srcdir) / "book" / part).rglob("*")):
        if path.suffix in (".py", ".js", ".css", ".html"):
            digest.update(path.read_bytes())
    config.course_looks = digest.hexdigest()


def hide_answers(app, docname, source):
    """Show a lab as the student gets it, without the targets of its predict tasks."""
    if docname.startswith("labs/"):
        source[0] = json.dumps(student(source[0]))


def student(text):
    """Return the student's copy of a lab, as the notebook's JSON."""
    from vlib.grading.notebook import student_copy

    return student_copy(json.loads(text))


def offer_notebook(app, pagename, templatename, context, doctree):
    """Put a button for the page's notebook at its top."""
    if is_notebook(app, pagename):
        name = pagename.rpartition("/")[2]
        context["header_buttons"].append(
            {
                "type": "link",
                "url": f"{context['pathto']('notebooks', 1)}/{name}.ipynb",
                "text": "",
                "tooltip": "Download this page as a notebook",
                "icon": "fas fa-download",
                "label": "download-notebook-button",
            }
        )


def is_notebook(app, pagename):
    """Say whether the page has cells that run."""
    return pagename in app.env.metadata and "kernelspec" in app.env.metadata[pagename]


def write_notebooks(app, error):
    """Write each page that runs as a notebook without outputs, and each lab as the student's copy."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    for page in filter(lambda name: is_notebook(app, name), sorted(app.env.found_docs)):
        source = Path(app.env.doc2path(page))
        if page.startswith("labs/"):
            text = json.dumps(student(source.read_text(encoding="utf-8")), indent=1, ensure_ascii=False)
        else:
            text = jupytext.writes(jupytext.read(source), "ipynb")
        (folder / f"{source.stem}.ipynb").write_text(text + "\n", encoding="utf-8")


def remove_old_pages(app, error):
    """Remove the pages that an earlier build made of documents that are gone; Sphinx leaves them."""
    if error or app.builder.format != "html":
        return
    folder = Path(app.outdir)
    known = {folder / f"{name}.html" for name in (*app.env.found_docs, "index", "search")}
    for page in set(folder.rglob("*.html")) - known:
        if folder / "_static" not in page.parents:
            page.unlink()
    for notebook in (folder / "notebooks").glob("*.ipynb"):
        if not any(name.endswith(f"/{notebook.stem}") for name in app.env.found_docs):
            notebook.unlink()
