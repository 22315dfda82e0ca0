"""The built site in a real browser: from disk and from a server, with every other host out of reach."""

import contextlib
import gzip
import http.server
import json
import re
import shutil
import threading
from functools import cache, partial
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urlsplit

import jupytext
import nbformat
import pytest
from building import ROOT, build

pytestmark = [pytest.mark.site]
browser_test = pytest.mark.browser
PAGE_LIMIT = 1_200_000  # bytes after gzip, for a page with mathematics and live figures


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module", params=["small", "real"])
def site(request):
    return request.getfixturevalue(f"{request.param}_site")


@pytest.fixture(scope="module", params=["disk", "server"])
def base(request, site):
    if request.param == "disk":
        yield site.as_uri()
    else:
        with served(site) as address:
            yield address


def pages(site):
    """Every page but the first, which only sends the reader on."""
    found = (str(page.relative_to(site)) for page in site.rglob("*.html") if "_static" not in page.parts)
    return sorted(name for name in found if name != "index.html")


def live_pages(site):
    return [page for page in pages(site) if "live-figure" in (site / page).read_text(encoding="utf-8")]


@pytest.fixture
def opened(browser):
    """A function that opens an address and fails at the end if the browser complained or asked another host."""
    complaints, contexts = [], []

    def open_page(address, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: failed(request))
        page.on("response", lambda r: complaints.append(f"{r.status}: {r.url}") if r.status >= 400 else None)
        page.on("request", lambda request: foreign(request.url))
        page.goto(address)
        page.wait_for_load_state("load")
        return page

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # that one is the test's own: it went on to the next page
            complaints.append(f"{request.failure}: {request.url}")

    def foreign(url):
        if not url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")):
            complaints.append(f"asked another host: {url}")

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@browser_test
def test_every_page_loads_without_a_complaint_and_fits_a_phone(site, base, opened):
    page = opened(f"{base}/book/index.html", viewport={"width": 360, "height": 740})
    for name in pages(site):
        page.goto(f"{base}/{name}")
        page.wait_for_load_state("load")
        if page.locator(".math").count():
            page.wait_for_function("document.querySelectorAll('mjx-container').length > 0")
            page.evaluate("MathJax.startup.promise.then(() => true)")
            assert page.locator("mjx-merror").count() == 0, name
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, f"{name} scrolls sideways"


@browser_test
def test_the_first_page_sends_the_reader_to_the_book(site, base, browser):
    page = browser.new_page()
    page.goto(f"{base}/index.html", wait_until="commit")
    page.wait_for_url("**/book/index.html")
    assert page.locator("h1").first.inner_text()
    page.close()


def picture(figure):
    return figure.locator(".picture").inner_html()


@browser_test
def test_the_keyboard_moves_every_figure_and_the_value_is_announced(site, base, opened):
    for name in live_pages(site):
        page = opened(f"{base}/{name}")
        for figure in page.locator("figure.live-figure").all():
            start = picture(figure)
            for control in figure.locator("input[type=range]").all():
                label = page.locator(f'label[for="{control.get_attribute("id")}"]')
                assert label.inner_text().strip()
                home = int(control.input_value())
                last = int(control.get_attribute("max"))
                shown = control.get_attribute("aria-valuetext")
                control.focus()
                seen = {picture(figure)}
                control.press("Home")
                for _ in range(last):
                    control.press("ArrowRight")
                    seen.add(picture(figure))
                    now = control.get_attribute("aria-valuetext")
                    assert control.evaluate("c => c.nextElementSibling.textContent") == now
                    assert figure.locator("svg").count() == 1, "only the shown picture is in the page"
                assert int(control.input_value()) == last
                if last:
                    assert len(seen) > 1, f"{name}: no picture changed under {label.inner_text()}"
                    assert now != shown or home == last
                control.press("Home")
                for _ in range(home):
                    control.press("ArrowRight")
                assert control.get_attribute("aria-valuetext") == shown
                assert picture(figure) == start, "back at the default is back at the first picture"
            for control in figure.locator("select").all():
                control.select_option(index=control.locator("option").count() - 1)
                assert picture(figure) != start
                control.select_option(index=0)


@browser_test
def test_each_place_of_the_controls_shows_its_own_picture(small_site, opened):
    page = opened(f"{small_site.as_uri()}/book/ch99_waves.html")
    figure = page.locator("figure.live-figure").first
    seen = {}
    for shape in ("cosine", "sine"):
        figure.locator("select").select_option(label=shape)
        for at, turns in enumerate((1, 2, 3, 4)):
            figure.locator("input").evaluate(
                "(c, at) => { c.value = at; c.dispatchEvent(new Event('input', {bubbles: true})) }", at
            )
            alt = f"A {shape} of {turns} turns"
            assert figure.locator("svg").get_attribute("aria-label") == alt
            assert figure.get_by_role("img", name=alt).count() == 1
            assert figure.locator(".said").inner_text() == alt
            seen[alt] = picture(figure)
    assert len(set(seen.values())) == 8


@browser_test
def test_tab_alone_reaches_a_slider(small_site, opened):
    page = opened(f"{small_site.as_uri()}/book/ch99_waves.html")
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "range":
            return
    pytest.fail("sixty times Tab did not reach the slider")


@browser_test
def test_without_javascript_the_first_picture_shows_and_no_dead_control_does(site, browser):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 360, "height": 740})
    for name in live_pages(site):
        page = context.new_page()
        page.goto(f"{site.as_uri()}/{name}")
        for figure in page.locator("figure.live-figure").all():
            box = figure.locator("svg").bounding_box()
            assert box["width"] > 250 and box["height"] > 100
            assert figure.locator("svg text").count() > 0
            assert not figure.locator("form").is_visible()
    context.close()


CONTRAST = """figure => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgb = colour => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = colour => {
    const [r, g, b] = rgb(colour).map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.body).backgroundColor);
  const ratio = colour => { const l = light(colour); return (Math.max(l, paper) + 0.05) / (Math.min(l, paper) + 0.05); };
  const texts = [...figure.querySelectorAll('svg text')].filter(t => t.textContent.trim());
  return {paper, texts: texts.map(t => [t.textContent, ratio(getComputedStyle(t).fill)])};
}"""


@browser_test
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_text_of_figures_can_be_read_in_both_themes(site, scheme, opened):
    for name in live_pages(site):
        page = opened(f"{site.as_uri()}/{name}", color_scheme=scheme)
        for figure in page.locator("figure.live-figure").all():
            found = figure.evaluate(CONTRAST)
            assert (found["paper"] > 0.5) == (scheme == "light")
            on_paper = [(ratio, text) for text, ratio in found["texts"] if text != "<b>&</b>"]  # that is on a picture
            assert on_paper and min(on_paper)[0] >= 4.5, min(on_paper)


@browser_test
def test_labels_are_not_too_small_on_a_phone(site, opened):
    for name in live_pages(site):
        page = opened(f"{site.as_uri()}/{name}", viewport={"width": 360, "height": 740})
        sizes = page.evaluate(
            """[...document.querySelectorAll('.live-figure svg text')].map(t =>
                 parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a).filter(size => size > 0)"""
        )
        assert sizes and sorted(sizes)[len(sizes) // 2] >= 8.5, name


@browser_test
def test_search_works_from_disk(small_site, opened):
    page = opened(f"{small_site.as_uri()}/search.html?q=energy")
    page.wait_for_selector("#search-results li a")
    assert "Waves" in page.locator("#search-results").inner_text()


@browser_test
def test_a_page_with_figures_is_light(site, opened):
    with served(site) as address:
        for name in live_pages(site):
            page = opened("about:blank")
            sizes = {}
            page.on("response", lambda r, sizes=sizes: sizes.update({r.url: len(gzip.compress(r.body()))}))
            page.goto(f"{address}/{name}")
            page.wait_for_load_state("networkidle")
            assert len(sizes) > 3
            assert sum(sizes.values()) <= PAGE_LIMIT, f"{name}: {sizes}"
            page.close()  # before its server ends


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids.update(filter(None, (attrs.get("id"), attrs.get("name"))))
        self.links += [(tag, attrs[key]) for key in ("href", "src") if attrs.get(key)]


@cache
def parsed(path):
    return Links(path.read_text(encoding="utf-8"))


def test_every_internal_link_leads_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    for name in pages(site):
        for tag, link in parsed(site / name).links:
            if urlsplit(link).scheme in ("http", "https"):
                assert tag == "a", f"{name} loads {link}"
            if urlsplit(link).scheme or link.startswith("data:"):
                continue
            path, fragment = urldefrag(link)
            target = (site / name).parent / unquote(path.partition("?")[0]) if path else site / name
            assert target.exists(), f"{name}: {link}"
            if fragment and target.suffix == ".html":
                assert unquote(fragment) in parsed(target).ids, f"{name}: {link}"


def test_no_file_of_the_site_holds_another_hosts_script(site):
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"unpkg|jsdelivr|cdnjs|googleapis", text), path


def notebooks(root):
    return sorted([*root.glob("book/ch*.md"), *root.glob("labs/lab*.ipynb")])


@pytest.mark.parametrize("which", ["small", "real"])
def test_every_chapter_and_lab_offers_itself_as_a_clean_notebook(which, request):
    site = request.getfixturevalue(f"{which}_site")
    root = ROOT if which == "real" else request.getfixturevalue("small_book")
    toc = (root / "_toc.yml").read_text()
    for source in notebooks(root):
        if source.stem not in toc:
            continue
        page = site / source.relative_to(root).with_suffix(".html")
        links = [link for _, link in parsed(page).links if link.endswith(".ipynb")]
        assert links == [f"../notebooks/{source.stem}.ipynb"]
        notebook = nbformat.read(page.parent / links[0], as_version=4)
        nbformat.validate(notebook)
        original = jupytext.read(source)
        assert [cell.source for cell in notebook.cells] == [cell.source for cell in original.cells]
        assert notebook.metadata.kernelspec.name == "python3"
        if source.suffix == ".md":
            assert all(cell.get("outputs", []) == [] for cell in notebook.cells)


def test_the_targets_of_predict_tasks_are_nowhere_on_the_site(small_site):
    page = (small_site / "labs" / "lab99_waves.html").read_text()
    assert "shown-target-0815" in page, "the target of a build task is shown"
    for path in small_site.rglob("*"):
        if path.is_file():
            assert b"hidden-target-4711" not in path.read_bytes(), path


def test_a_built_site_shows_what_the_models_give_now_and_fails_with_a_failing_cell(small_book, tmp_path):
    book = tmp_path / "book"
    shutil.copytree(small_book, book, symlinks=True)
    page = book / "_build" / "html" / "book" / "ch99_waves.html"
    assert "first" in page.read_text()
    styles = book / "_build" / "html" / "_static" / "all.css"
    for _ in range(2):
        before = styles.stat().st_mtime_ns, page.stat().st_mtime_ns
        run = build(book)
        assert run.returncode == 0, run.stdout + run.stderr
    assert (styles.stat().st_mtime_ns, page.stat().st_mtime_ns) == before, "nothing has changed: nothing is written"
    (book / "book" / "_web").unlink()
    shutil.copytree(ROOT / "book" / "_web", book / "book" / "_web")
    with open(book / "book" / "_web" / "site.css", "a") as own:
        own.write("body { --probe: 4711px }\n")
    assert build(book).returncode == 0
    assert "--probe: 4711px" in styles.read_text(), "a change of the styles does not reach the site"
    (book / "vlib" / "probe.py").write_text('STATE = "second"\n')
    run = build(book)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "second" in page.read_text(), "the pages were not run again after a change of the models"
    chapter = book / "book" / "ch99_waves.md"
    chapter.write_text(chapter.read_text() + "\n```{code-cell} ipython3\n1 / 0\n```\n")
    assert build(book).returncode != 0


def test_the_notebooks_of_the_site_come_from_the_labs_by_student_copy(real_site):
    from vlib.grading.notebook import student_copy

    for source in sorted((ROOT / "labs").glob("lab*.ipynb")):
        copy = real_site / "notebooks" / source.name
        assert json.loads(copy.read_text()) == student_copy(json.loads(source.read_text()))
