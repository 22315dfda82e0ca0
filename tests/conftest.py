"""What several tests share: a browser, the built site, and the rule that CI skips nothing."""

import os
import shutil
from pathlib import Path

import pytest
from building import ROOT, build


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a browser, sandbox or site test that would be skipped where CI is set: there it must have what it needs."""
    report = yield
    needed = [mark for mark in ("browser", "sandbox", "site") if item.get_closest_marker(mark)]
    if os.environ.get("CI") and needed and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"a {needed[0]} test may not be skipped where CI is set: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Fail a whole file that would be skipped where CI is set."""
    report = yield
    if os.environ.get("CI") and report.outcome == "skipped":
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} may not be skipped where CI is set: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium that can resolve no name and so reach no other host."""
    sync_api = pytest.importorskip("playwright.sync_api")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not path:
        pytest.skip("no Chromium: install it, or say where it is in the variable CHROMIUM")
    args = ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        args.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=args)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def real_site() -> Path:
    """The folder of the course's own site; `make test` has just built it."""
    site = ROOT / "_build" / "html"
    if not (site / "index.html").exists():
        run = build(ROOT)
        assert run.returncode == 0, run.stdout + run.stderr
    return site


@pytest.fixture(scope="session")
def small_book(tmp_path_factory) -> Path:
    """The folder of a book of one chapter and one lab, on the course's own settings and extension, built."""
    book = tmp_path_factory.mktemp("small") / "course"
    shutil.copytree(Path(__file__).parent / "small_book", book)
    for name in ("_config.yml", "book/_ext", "book/_web", "book/references.bib", "requirements.txt"):
        (book / name).symlink_to(ROOT / name)
    run = build(book)
    assert run.returncode == 0, run.stdout + run.stderr
    return book


@pytest.fixture(scope="session")
def small_site(small_book) -> Path:
    """The folder of the small book's site."""
    return small_book / "_build" / "html"
