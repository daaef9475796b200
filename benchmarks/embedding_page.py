"""Time the page of an embedding map: its file, its first frame, a frame, a selection.

    python benchmarks/embedding_page.py [--particles 100000] [--rounds 5]
        [--output benchmarks/results/embedding_page.txt]

Needs chromium, chromedriver and selenium. Particles are random: 16 classes, embeddings
of 64 features, noise of 16 x 16 pixels for pictures, which nothing compresses. The
machine that was measured has no graphics processor; there the page draws without WebGL.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _measure import machine, write
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

import sksubtomo
from sksubtomo.inspection.embedding_page import write_embedding_page
from sksubtomo.io import write_particles

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,900",
)

# Each returns milliseconds.
FIRST_FRAME = "return performance.getEntriesByName('first-frame')[0]?.startTime"
FRAME = "const start = performance.now(); pan(3, 2); draw();"
RECOLOUR = "const start = performance.now(); setColumn(1); draw(); setColumn(0);"
LASSO = """
const path = Array.from({ length: 200 }, (_, k) => {
  const angle = k * Math.PI / 100;
  const radius = (250 + 100 * Math.cos(5 * angle)) / view.scale;
  return [view.x + radius * Math.cos(angle), view.y + radius * Math.sin(angle)];
});
const start = performance.now();
selectInside(path, "replace");
draw();
"""
STAR = "const start = performance.now(); new Blob(starParts());"
PICTURE = """
const done = arguments[0];
atlases.clear();
const start = performance.now();
atlas(0).then(() => done(performance.now() - start));
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--particles", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    n = options.particles
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 16, n)
    embedding = 3 * rng.normal(size=(16, 64))[classes] + rng.normal(size=(n, 64))
    names = [f"{i + 1:06d}@Extract/job012/TS_{i % 60:03d}.mrc" for i in range(n)]
    columns = {
        "labels": np.array([f"class {k:02d}" for k in range(16)])[classes],
        "values": {
            "probability": rng.uniform(size=n),
            "tomogram": [f"TS_{i % 60:03d}" for i in range(n)],
        },
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        star = folder / "particles.star"
        write_star(star, names, rng)
        volumes = rng.normal(size=(n, 1, 16, 16)).astype(np.float32)
        kinds: dict[str, dict[str, Any]] = {
            "no pictures": {"names": names},
            "no pictures, STAR": {"star": star},
            "16 x 16 pictures": {"names": names, "volumes": volumes},
            "16 x 16 pictures, STAR": {"star": star, "volumes": volumes},
        }
        lines = [
            f"Command: python benchmarks/embedding_page.py --particles {n} "
            f"--rounds {options.rounds}",
            f"Machine: {machine()}; no graphics processor; other programs ran, load "
            f"average {os.getloadavg()[0]:.1f}",
            f"Versions: sksubtomo {sksubtomo.__version__}, {browser_version()}",
            "",
            f"{n} particles; a STAR file of {megabytes(star)}. Milliseconds: lowest "
            f"(median) of {options.rounds} rounds;",
            "the first frame is counted from the start of loading. A lasso has 200 "
            "corners.",
            f"{'page':<23}{'written in':>11}{'file':>10}{'first frame':>16}"
            f"{'frame':>12}{'colours':>12}{'lasso':>12}{'STAR':>12}{'picture':>9}",
        ]
        for kind, arguments in kinds.items():
            print(kind, file=sys.stderr)
            page = folder / "map.html"
            start = time.perf_counter()
            write_embedding_page(
                page, embedding, overwrite=True, **columns, **arguments
            )
            seconds = time.perf_counter() - start
            found = measure(page, options.rounds, folder)
            lines.append(
                f"{kind:<23}{seconds:>9.1f} s{megabytes(page):>10}"
                f"{found['first frame']:>16}{found['frame']:>12}"
                f"{found['colours']:>12}{found['lasso']:>12}{found['STAR']:>12}"
                f"{found['picture']:>9}"
            )
    write(lines, options.output)


def megabytes(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"


def write_star(path: Path, names: list[str], rng: np.random.Generator) -> None:
    """Write a STAR file as RELION 5 has after a refinement."""
    n = len(names)
    columns: dict[str, Any] = {"rlnTomoName": [f"TS_{i % 60:03d}" for i in range(n)]}
    for axis in "XYZ":
        columns[f"rlnCenteredCoordinate{axis}Angst"] = rng.normal(size=n) * 1000
        columns[f"rlnOrigin{axis}Angst"] = rng.normal(size=n)
    for angle in ("Rot", "Tilt", "Psi"):
        columns[f"rlnAngle{angle}"] = rng.uniform(-180, 180, n)
    columns["rlnImageName"] = names
    columns["rlnClassNumber"] = [1] * n
    write_particles(
        path,
        {
            tag: [f"{value:.6f}" for value in values]
            if isinstance(values, np.ndarray)
            else values
            for tag, values in columns.items()
        },
        optics={"rlnImagePixelSize": 10.0},
    )


def open_browser(folder: Path) -> webdriver.Chrome:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    options = webdriver.ChromeOptions()
    options.binary_location = program or ""
    for flag in FLAGS:
        options.add_argument(flag)
    profile = tempfile.mkdtemp(dir=folder)
    options.add_argument(f"--user-data-dir={profile}")
    service = Service(shutil.which("chromedriver"))
    browser = webdriver.Chrome(options=options, service=service)
    browser.set_script_timeout(300)
    return browser


def browser_version() -> str:
    with tempfile.TemporaryDirectory() as folder:
        browser = open_browser(Path(folder))
        version = browser.capabilities["browserVersion"]
        browser.quit()
    return f"Chromium {version}"


def measure(page: Path, rounds: int, folder: Path) -> dict[str, str]:
    """Open a page some times, and return what was measured as text."""
    browser = open_browser(folder)
    times: dict[str, list[float]] = {}
    try:
        for _ in range(rounds):
            browser.get("about:blank")
            browser.get(page.as_uri())
            while (first := browser.execute_script(FIRST_FRAME)) is None:
                time.sleep(0.05)
            found = {"first frame": first}
            for name, script in (
                ("frame", FRAME),
                ("colours", RECOLOUR),
                ("lasso", LASSO),
                ("STAR", STAR),
            ):
                time.sleep(0.3)
                script += "return performance.now() - start"
                found[name] = browser.execute_script(script)
            if browser.execute_script("return page.pictures"):
                found["picture"] = browser.execute_async_script(PICTURE)
            for name, milliseconds in found.items():
                times.setdefault(name, []).append(milliseconds)
        renderer = browser.execute_script("return renderer.name")
        assert renderer == "canvas", renderer
    finally:
        browser.quit()
    texts = {
        name: f"{min(found):.0f} ({statistics.median(found):.0f})"
        for name, found in times.items()
    }
    return {"picture": "", **texts}


if __name__ == "__main__":
    main()
