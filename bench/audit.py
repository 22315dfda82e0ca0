"""Audit the built site as a phone sees it: lighthouse and axe-core from npm, in Chromium, behind a gzip server.

`python -m bench.audit [PAGE ...]` prints for each page lighthouse's scores (the median of five runs), what keeps the
performance below 100, and what axe-core finds in the light and in the dark theme. The exit status is 1 where the
performance is below 90 or the accessibility below 100. Pages default to the chapters and labs of the site.
"""

import argparse
import functools
import gzip
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
TOOLS = ROOT / "_build" / "audit"
PACKAGES = ["lighthouse@12.8.2", "axe-core@4.14.1"]
FLAGS = ["--headless=new", "--disable-background-networking"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
PERFORMANCE, ACCESSIBILITY = 90, 100


class Gzip(http.server.SimpleHTTPRequestHandler):
    """Serve files compressed and cacheable, as an ordinary web server does."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Say nothing."""

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        body, kind = compressed(path), self.guess_type(str(path))
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "max-age=31536000")
        self.end_headers()
        self.wfile.write(body)


@functools.cache
def compressed(path):
    return gzip.compress(path.read_bytes(), 6)


def lighthouse(address, chromium):
    run = subprocess.run(
        [
            TOOLS / "node_modules" / ".bin" / "lighthouse",
            address,
            "--output=json",
            "--quiet",
            "--form-factor=mobile",
            "--only-categories=performance,accessibility",
            f"--chrome-flags={' '.join(FLAGS)}",
        ],
        env={**os.environ, "CHROME_PATH": chromium},
        capture_output=True,
        text=True,
        timeout=180,
    )
    if run.returncode:
        raise SystemExit(f"lighthouse failed on {address}:\n{run.stderr}")
    return json.loads(run.stdout)


def costs(report):
    """Return what keeps the scores below 100, dearest first."""
    audits = report["audits"]
    lines = []
    weights = {ref["id"]: ref["weight"] for ref in report["categories"]["performance"]["auditRefs"]}
    for key, weight in weights.items():
        score = audits[key]["score"]
        if weight and score is not None and score < 1:
            lines.append((weight * (1 - score), f"{audits[key]['title']}: {audits[key].get('displayValue', '')}"))
    metrics = [f"-{cost:.1f} points  {line}" for cost, line in sorted(lines, reverse=True)]
    wasted = []
    for audit in audits.values():
        saving = sum((audit.get("metricSavings") or {}).values())
        if saving and audit["score"] is not None and audit["score"] < 1:
            wasted.append((saving, f"  {audit['title']} ({audit.get('displayValue') or 'see the report'})"))
    missing = [
        f"accessibility: {audits[ref['id']]['title']}"
        for ref in report["categories"]["accessibility"]["auditRefs"]
        if ref["weight"] and audits[ref["id"]]["score"] == 0
    ]
    return metrics + [line for _, line in sorted(wasted, reverse=True)] + missing


def axe(addresses, chromium):
    """Return the violations that axe-core finds, one line each."""
    from playwright.sync_api import sync_playwright

    script = (TOOLS / "node_modules" / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
    found = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=[f for f in FLAGS if "headless" not in f])
        for address in addresses:
            for scheme in ("light", "dark"):
                page = browser.new_page(color_scheme=scheme, viewport={"width": 412, "height": 823})
                page.goto(address)
                page.wait_for_load_state("networkidle")
                page.evaluate(script)
                for broken in page.evaluate("axe.run().then(result => result.violations)"):
                    nodes = broken["nodes"]
                    where = "; ".join(node["html"][:110] for node in nodes[:3])
                    found.append(f"{address.rpartition('/')[2]} {scheme}: {broken['id']} ({len(nodes)}) {where}")
                page.close()
        browser.close()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("pages", nargs="*", help="such as book/ch08_migration.html")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not (chromium and shutil.which("npm") and (SITE / "index.html").exists()):
        raise SystemExit("the audit needs Chromium, npm and the built site (make book)")
    pages = arguments.pages or [
        str(page.relative_to(SITE)) for page in sorted([*SITE.glob("book/*.html"), *SITE.glob("labs/*.html")])
    ]
    for page in pages:
        if not (SITE / page).is_file():
            raise SystemExit(f"no page {page} in {SITE}")
    TOOLS.mkdir(parents=True, exist_ok=True)
    install = ["npm", "install", "--prefix", str(TOOLS), "--no-audit", "--no-fund", "--no-package-lock", "--silent"]
    subprocess.run([*install, *PACKAGES], check=True)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Gzip, directory=SITE))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    failed = False
    for page in pages:
        reports = [lighthouse(f"{base}/{page}", chromium) for _ in range(arguments.runs)]

        def score(category, reports=reports):
            return [round(100 * report["categories"][category]["score"]) for report in reports]

        performance, accessibility = score("performance"), score("accessibility")
        middle = statistics.median(performance)
        print(f"{page}: performance {middle:g} {sorted(performance)}, accessibility {min(accessibility)}", flush=True)
        report = min(reports, key=lambda report: abs(100 * report["categories"]["performance"]["score"] - middle))
        print("".join(f"    {line}\n" for line in costs(report)), end="", flush=True)
        failed |= middle < PERFORMANCE or min(accessibility) < ACCESSIBILITY
    violations = axe([f"{base}/{page}" for page in pages], chromium)
    print("axe-core:", "\n  ".join(violations) or f"no violation on {len(pages)} pages in two themes")
    server.shutdown()
    sys.exit(1 if failed or violations else 0)


if __name__ == "__main__":
    main()
