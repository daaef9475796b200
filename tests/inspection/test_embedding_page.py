import base64
import csv
import io
import json
import re
import shutil
import time

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.path import Path as Outline
from sklearn.decomposition import PCA

from sksubtomo._stored import StoredVolumes
from sksubtomo.inspection._matplotlib import CLASS_COLORS, MARKERS, class_style
from sksubtomo.inspection.embedding_page import write_embedding_page
from sksubtomo.io import read_particles

RNG = np.random.default_rng(0)
N = 60
PLACES = RNG.uniform(-1, 1, (N, 2)).astype(np.float32)
VOLUMES = RNG.normal(size=(N, 6, 8, 8)).astype(np.float32)
LABELS = np.array(["ribosome", "20S proteasome", "GroEL"])[np.arange(N) % 3]
NAMES = [f"{i + 1:06d}@stack.mrc" for i in range(N)]
# The page cannot tell that its graphics processor is a program.
SOFTWARE_WEBGL = """
const getExtension = WebGLRenderingContext.prototype.getExtension;
WebGLRenderingContext.prototype.getExtension = function (name) {
  return name === "WEBGL_debug_renderer_info" ? null : getExtension.call(this, name);
};"""


def expected_pictures(volumes, side):
    """Return the central slices with y up, averaged and stretched to 8 bits."""
    slices = volumes[:, volumes.shape[1] // 2, ::-1].astype(np.float64)
    k = slices.shape[1] // side
    small = slices.reshape(len(slices), side, k, side, k).mean(axis=(2, 4))
    low, high = np.percentile(small, (1, 99), axis=(1, 2), keepdims=True)
    return np.clip((small - low) / (high - low), 0, 1) * 255


def read_atlas(page, number=0):
    text = page.read_text("utf-8")
    content = re.search(rf'id="atlas{number}">([^<]*)<', text)[1]
    return plt.imread(io.BytesIO(base64.b64decode(content))) * 255


def cut(atlas, side):
    down, across = (length // side for length in atlas.shape)
    tiles = atlas.reshape(down, side, across, side)
    return tiles.transpose(0, 2, 1, 3).reshape(-1, side, side)


# --------------------------------------------------------------------- the file


def test_pictures_are_central_slices(tmp_path):
    page = tmp_path / "map.html"
    write_embedding_page(page, PLACES, volumes=VOLUMES, thumbnail_size=4)
    pictures = cut(read_atlas(page), 4)[:N]
    np.testing.assert_allclose(pictures, expected_pictures(VOLUMES, 4), atol=0.51)


def test_small_slices_keep_their_size(tmp_path):
    page = tmp_path / "map.html"
    write_embedding_page(page, PLACES, volumes=VOLUMES)
    pictures = cut(read_atlas(page), 8)[:N]
    np.testing.assert_allclose(pictures, expected_pictures(VOLUMES, 8), atol=0.51)


@pytest.mark.parametrize("kind", ["memmap", "hdf5", "stored"])
def test_stored_volumes_give_the_same_page(tmp_path, kind):
    write_embedding_page(tmp_path / "memory.html", PLACES, volumes=VOLUMES)
    np.save(tmp_path / "volumes.npy", VOLUMES)
    volumes = np.load(tmp_path / "volumes.npy", mmap_mode="r")
    if kind == "hdf5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "volumes.h5", "w") as file:
            volumes = file.create_dataset("volumes", data=VOLUMES)
            write_embedding_page(tmp_path / "stored.html", PLACES, volumes=volumes)
    else:
        if kind == "stored":
            volumes = StoredVolumes(volumes, volumes.shape[1:])
        write_embedding_page(tmp_path / "stored.html", PLACES, volumes=volumes)
    pages = [read_atlas(tmp_path / f"{name}.html") for name in ("memory", "stored")]
    np.testing.assert_array_equal(*pages)


def test_flat_volumes_have_grey_pictures(tmp_path):
    page = tmp_path / "map.html"
    write_embedding_page(page, PLACES, volumes=np.ones((N, 4, 4, 4)))
    assert set(np.unique(cut(read_atlas(page), 4)[:N])) == {128}


def test_page_asks_for_nothing(tmp_path):
    page = tmp_path / "map.html"
    write_embedding_page(page, PLACES, volumes=VOLUMES, labels=LABELS)
    text = page.read_text("utf-8")
    addresses = set(re.findall(r"[a-z]+://[^\"'\s]+", text))
    assert addresses == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in text


def test_same_input_gives_the_same_file(tmp_path):
    pages = [tmp_path / "a" / "map.html", tmp_path / "b" / "map.html"]
    for page in pages:
        page.parent.mkdir()
        write_embedding_page(page, VOLUMES[:, 0, 0], volumes=VOLUMES, names=NAMES)
    assert pages[0].read_bytes() == pages[1].read_bytes()


def test_existing_file_is_kept(tmp_path):
    page = tmp_path / "map.html"
    page.write_text("old")
    with pytest.raises(FileExistsError, match=r"map\.html"):
        write_embedding_page(page, PLACES)
    broken = VOLUMES.copy()
    broken[7, 3, 2, 2] = np.nan
    with pytest.raises(ValueError, match="volume 7 has NaN"):
        write_embedding_page(page, PLACES, volumes=broken, overwrite=True)
    assert page.read_text() == "old"
    write_embedding_page(page, PLACES, overwrite=True)
    assert page.read_text("utf-8") != "old"
    assert [path.name for path in tmp_path.iterdir()] == ["map.html"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding": np.zeros((N, 1))}, r"embedding: has shape \(60, 1\)"),
        ({"embedding": np.full((N, 3), np.nan)}, "embedding: holds NaN"),
        ({"embedding": np.full((N, 2), "a")}, "embedding: has dtype"),
        ({"projection": "umap"}, "projection: is 'umap'"),
        ({"projection": PLACES[:3]}, r"projection: has shape \(3, 2\)"),
        ({"volumes": VOLUMES[:3]}, "volumes: have shape"),
        ({"volumes": VOLUMES[:, 0]}, "volumes: have shape"),
        ({"labels": LABELS[:3]}, r"labels: has shape \(3,\)"),
        ({"names": NAMES[:3]}, r"names: has shape \(3,\)"),
        ({"values": {"p": [1.0]}}, r"values\['p'\]: has shape \(1,\)"),
        ({"values": {"class": LABELS}}, "values: has a column 'class'"),
        ({"volumes": VOLUMES, "thumbnail_size": 0}, "thumbnail_size: is 0"),
        ({"volumes": VOLUMES, "max_thumbnails": 0}, "max_thumbnails: is 0"),
        (
            {"volumes": VOLUMES, "thumbnail_size": 2.5},
            "thumbnail_size: is 2.5.*integer",
        ),
        (
            {"volumes": VOLUMES, "max_thumbnails": 2.5},
            "max_thumbnails: is 2.5.*integer",
        ),
        ({"volumes": VOLUMES, "percentiles": (99, 1)}, "percentiles: is"),
    ],
)
def test_rejects(tmp_path, changes, message):
    page = tmp_path / "map.html"
    with pytest.raises(ValueError, match=message):
        write_embedding_page(page, **{"embedding": PLACES, **changes})
    assert not page.exists()


def test_star_of_other_particles_is_refused(tmp_path):
    star = tmp_path / "particles.star"
    star.write_text("data_particles\n\nloop_\n_rlnImageName #1\n1@a.mrc\n2@a.mrc\n")
    with pytest.raises(ValueError, match=r"star: .* has 2 particles, .* 60"):
        write_embedding_page(tmp_path / "map.html", PLACES, star=star)


# ------------------------------------------------------------------ the browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    folder = tmp_path_factory.mktemp("browser")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (
        "--headless=new",
        "--no-sandbox",
        # Programs in place of a graphics processor; one is for WebGL.
        "--disable-gpu",
        "--enable-unsafe-swiftshader",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={folder / 'profile'}",
        "--window-size=1000,750",
        "--force-device-scale-factor=1",
        "about:blank",
    ):
        options.add_argument(flag)
    options.add_experimental_option(
        "prefs", {"download.default_directory": str(folder / "downloads")}
    )
    options.set_capability(
        "goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"}
    )
    browser = webdriver.Chrome(options=options, service=Service(driver))
    browser.downloads = folder / "downloads"
    yield browser
    browser.quit()


def wait(condition):
    """Wait until something is there, and return it."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing came within 20 s")


class Page:
    """A page in the browser."""

    def __init__(self, browser, path):
        self.browser = browser
        browser.get(path.as_uri())
        wait(
            lambda: self.js("return performance.getEntriesByName('first-frame').length")
        )
        box = self.js("return document.getElementById('overlay').getClientRects()[0]")
        self.left, self.top = box["left"], box["top"]

    def js(self, script, *arguments):
        return self.browser.execute_script(script, *arguments)

    def text(self, name):
        return self.js("return document.getElementById(arguments[0]).innerText", name)

    def click(self, selector):
        self.browser.find_element("css selector", selector).click()

    def mouse(self):
        from selenium.webdriver import ActionChains

        return ActionChains(self.browser, duration=0)

    def snap(self, path):
        """Return pixels of the map that the mouse can go to."""
        corner = (self.left, self.top)
        return np.round(np.add(path, corner)) - corner

    def go(self, actions, place):
        """Append a move to a pixel of the map."""
        x, y = np.round(np.add(place, (self.left, self.top))).astype(int).tolist()
        actions.w3c_actions.pointer_action.move_to_location(x, y)
        actions.w3c_actions.key_action.pause()

    def hover(self, place):
        actions = self.mouse()
        self.go(actions, place)
        actions.perform()

    def drag(self, path, key=None):
        actions = self.mouse()
        self.go(actions, path[0])
        if key:
            actions.key_down(key)
        actions.click_and_hold()
        for place in path[1:]:
            self.go(actions, place)
        actions.release()
        if key:
            actions.key_up(key)
        actions.perform()

    def press(self, *keys):
        self.browser.find_element("id", "overlay").send_keys(*keys)

    def selected(self):
        return np.flatnonzero(self.js("return Array.from(selected)"))

    def pixels_of(self, places):
        """Return where places of the map are, by the scale of its view."""
        view = self.js("return view")
        area = self.js("return plotArea()")
        middle = np.array(
            [area["left"] + area["width"] / 2, area["top"] + area["height"] / 2]
        )
        offset = (np.asarray(places, np.float64) - [view["x"], view["y"]]) * [1, -1]
        return middle + view["scale"] * offset

    def screenshot(self):
        """Return the map as it is seen, in parts of 255."""
        # Twice: the first frame may be drawn, but not shown yet.
        self.browser.execute_async_script(
            "const done = arguments[0];"
            "requestAnimationFrame(() => requestAnimationFrame(() => done()))"
        )
        image = plt.imread(io.BytesIO(self.browser.get_screenshot_as_png()))
        return image[round(self.top) :, round(self.left) :, :3] * 255

    def download(self, button, name):
        path = self.browser.downloads / name
        path.unlink(missing_ok=True)
        self.click(f"#{button}")
        wait(path.exists)
        content = path.read_bytes()
        path.unlink()
        return content


@pytest.fixture(params=["WebGL", "canvas"])
def renderer(request):
    return request.param


@pytest.fixture
def open_page(browser, tmp_path):
    """Return a function that writes a page and opens it.

    Software stands in for the graphics processor, if there is to be one.
    """

    def open_page(embedding=PLACES, renderer="canvas", **arguments):
        path = tmp_path / "map.html"
        write_embedding_page(path, embedding, overwrite=True, **arguments)
        source = SOFTWARE_WEBGL if renderer == "WebGL" else ""
        script = browser.execute_cdp_cmd(
            "Page.addScriptToEvaluateOnNewDocument", {"source": source}
        )
        page = Page(browser, path)
        browser.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
        assert page.js("return renderer.name") == renderer
        return page

    for kind in ("browser", "performance"):
        browser.get_log(kind)
    yield open_page
    # Whatever a test did: no errors, and nothing asked for beside the page.
    log = browser.get_log("browser")
    assert [entry for entry in log if entry["level"] == "SEVERE"] == []
    events = [
        json.loads(entry["message"])["message"]
        for entry in browser.get_log("performance")
    ]
    asked = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        # The browser has pages of its own.
        and event["params"]["documentURL"].startswith("file:")
    }
    page = (tmp_path / "map.html").as_uri()
    assert page in asked
    assert {url.partition(":")[0] for url in asked - {page}} <= {"data", "blob"}


def test_points_are_drawn_where_they_are(open_page, renderer):
    places = np.array([[0, 0], [4, 0], [0, 2], [4, 2], [1, 1.5]], np.float32)
    labels = ["a", "b", "c", "d", "a"]
    page = open_page(places, renderer, labels=labels)
    # All of the map, 8 % around it, both axes on one scale.
    area = page.js("return plotArea()")
    scale = 0.92 * min(area["width"] / 4, area["height"] / 2)
    pixels = [
        area["left"] + area["width"] / 2 + scale * (places[:, 0] - 2),
        area["top"] + area["height"] / 2 - scale * (places[:, 1] - 1),
    ]
    image = page.screenshot()
    for column, row, label in zip(*pixels, labels, strict=True):
        color = np.multiply(255, to_rgb(CLASS_COLORS["abcd".index(label)]))
        found = image[int(row), int(column)]
        np.testing.assert_allclose(found, 0.85 * color + 0.15 * 255, atol=2)
    # Nothing else is coloured: five points of radius 4.5.
    inner = image[12 : round(area["height"]), 64 : round(area["width"])]
    coloured = np.ptp(inner, axis=-1) > 20
    assert 5 * 30 < coloured.sum() < 5 * 85


def test_both_renderers_show_the_same(open_page):
    images = [
        open_page(PLACES, renderer, labels=LABELS).screenshot()
        for renderer in ("WebGL", "canvas")
    ]
    # One rounds places to pixels, so edges differ a little.
    assert (np.abs(images[0] - images[1]).max(axis=-1) > 120).mean() < 1e-3
    difference = np.abs(images[0] - images[1]).mean()
    assert difference < 0.1 * np.abs(images[0] - 255).mean()


def test_lost_webgl_is_replaced(open_page):
    page = open_page(PLACES, "WebGL", labels=LABELS)
    before = page.screenshot()
    page.js(
        "$('points').getContext('webgl').getExtension('WEBGL_lose_context')"
        ".loseContext()"
    )
    wait(lambda: page.js("return renderer.name") == "canvas")
    assert np.abs(page.screenshot() - before).mean() < 1


def test_more_features_are_projected_on_principal_components(open_page):
    embedding = RNG.normal(size=(N, 5)) * [9, 4, 1, 1, 1]
    page = open_page(embedding)
    found = page.js("return [Array.from(x), Array.from(y), page.axes]")
    pca = PCA(2, svd_solver="full")
    expected = pca.fit_transform(embedding)
    np.testing.assert_allclose(np.transpose(found[:2]), expected, atol=1e-5)
    share = 100 * pca.explained_variance_ratio_[0]
    assert found[2][0] == f"PC 1 ({share:.0f} % of variance)"


def test_given_projection_is_drawn(open_page):
    page = open_page(VOLUMES[:, 0, 0], projection=PLACES)
    found = page.js("return [Array.from(x), Array.from(y)]")
    np.testing.assert_array_equal(np.transpose(found), PLACES)


def test_hover_shows_the_particle(open_page):
    page = open_page(
        volumes=VOLUMES,
        labels=LABELS,
        names=NAMES,
        values={"probability": np.linspace(0, 1, N), "tomogram": ["TS <1>"] * N},
    )
    for i in (7, 42):
        page.hover(page.pixels_of(PLACES[i]))
        facts = page.js(
            "return Array.from(document.querySelectorAll('#tip dt, #tip dd'))"
            ".map((item) => item.textContent)"
        )
        assert facts == [
            *("name", NAMES[i], "row", str(i), "class", LABELS[i]),
            *("probability", str(np.linspace(0, 1, N)[i]), "tomogram", "TS <1>"),
        ]
        picture = wait(
            lambda i=i: page.js(
                "const canvas = document.querySelector('#tip canvas');"
                "if (canvas.dataset.drawn !== String(arguments[0])) return null;"
                "return Array.from(canvas.getContext('2d')"
                ".getImageData(0, 0, 8, 8).data).filter((_, k) => k % 4 === 0)",
                i,
            )
        )
        expected = expected_pictures(VOLUMES[i : i + 1], 8).ravel()
        np.testing.assert_allclose(picture, expected, atol=0.51)
    page.hover((70, 20))
    assert page.js("return document.getElementById('tip').hidden")


def test_pictures_of_some_particles(open_page):
    page = open_page(volumes=VOLUMES, max_thumbnails=7)
    slots = page.js("return Array.from(x, (_, i) => slotOf(i))")
    rows = np.linspace(0, N - 1, 7).round().astype(int)
    expected = np.full(N, -1)
    expected[rows] = np.arange(7)
    assert slots == expected.tolist()


def test_rectangle_selects_what_numpy_does(open_page):
    places = RNG.normal(size=(2000, 2)).astype(np.float32)
    page = open_page(places, labels=np.arange(2000) % 3)
    from selenium.webdriver import Keys

    def inside(start, stop):
        low, high = np.sort(page.snap([start, stop]), axis=0)
        pixels = page.pixels_of(places)
        return ((pixels >= low) & (pixels <= high)).all(axis=1)

    first, second, third = (
        ((150, 120), (330, 260)),
        ((450, 400), (300, 230)),
        ((250, 180), (320, 250)),
    )
    page.press("r")
    page.drag(first)
    expected = inside(*first)
    assert 50 < expected.sum() < 1500
    np.testing.assert_array_equal(page.selected(), np.flatnonzero(expected))
    assert page.text("count") == f"{expected.sum():,} particles selected"
    page.drag(second, Keys.SHIFT)
    expected |= inside(*second)
    np.testing.assert_array_equal(page.selected(), np.flatnonzero(expected))
    page.drag(third, Keys.ALT)
    expected &= ~inside(*third)
    np.testing.assert_array_equal(page.selected(), np.flatnonzero(expected))
    # What is hidden is not chosen.
    page.click("#legend .entry")
    page.drag(first)
    expected = inside(*first) & (np.arange(2000) % 3 != 0)
    np.testing.assert_array_equal(page.selected(), np.flatnonzero(expected))


def test_lasso_selects_what_numpy_does(open_page):
    places = RNG.normal(size=(2000, 2)).astype(np.float32)
    page = open_page(places)
    # A map that was zoomed and moved before.
    page.press("+", "+", "l")
    angles = np.linspace(0, 2 * np.pi, 15, endpoint=False)
    radii = 120 + 60 * np.cos(3 * angles)
    path = page.snap(
        np.stack([350 + radii * np.cos(angles), 300 + radii * np.sin(angles)], 1)
    )
    page.drag(path)
    inside = Outline(path, closed=False).contains_points(page.pixels_of(places))
    assert inside.sum() > 50
    np.testing.assert_array_equal(page.selected(), np.flatnonzero(inside))


def test_lasso_among_100_000_particles(open_page, tmp_path):
    n = 100_000
    places = RNG.normal(size=(n, 2)).astype(np.float32)
    names = [f"{i + 1}@s.mrc" for i in range(n)]
    page = open_page(places, labels=np.arange(n) % 3, names=names)
    page.press("l")
    path = page.snap([(200, 150), (420, 210), (330, 300), (450, 420), (210, 380)])
    page.drag(path)
    inside = Outline(path, closed=False).contains_points(page.pixels_of(places))
    assert 10_000 < inside.sum() < n / 2
    np.testing.assert_array_equal(page.selected(), np.flatnonzero(inside))
    saved = tmp_path / "selected.star"
    saved.write_bytes(page.download("star", "map-selection.star"))
    assert read_particles(saved).image_names == np.array(names)[inside].tolist()


def test_click_selects_one_and_the_montage_takes_out(open_page):
    from selenium.webdriver import Keys

    page = open_page(volumes=VOLUMES, names=NAMES)
    for i, key in ((3, None), (30, Keys.SHIFT)):
        page.drag([page.pixels_of(PLACES[i])], key)
    assert page.selected().tolist() == [3, 30]
    wait(
        lambda: (
            page.js(
                "return [...document.querySelectorAll('#montage canvas')]"
                ".map((canvas) => canvas.dataset.drawn)"
            )
            == ["3", "30"]
        )
    )
    page.click("#montage button")
    assert page.selected().tolist() == [30]
    page.press(Keys.ESCAPE)
    assert page.selected().tolist() == []


def test_particles_are_found_by_name(open_page):
    page = open_page(names=NAMES)
    field = page.browser.find_element("css selector", "#find input")
    field.send_keys("00002")
    field.submit()
    assert page.selected().tolist() == [1, *range(19, 29)]
    page.click("#invert")
    assert len(page.selected()) == N - 11
    # Without pictures, names; and not more of them than can be read.
    names = page.text("montage").split()
    assert len(names) == 42
    page.click("#leaf button:last-child")
    assert page.text("montage").split() == NAMES[53:]


def test_legend_counts_and_hides(open_page):
    labels = [np.nan, *LABELS[1:]]
    page = open_page(labels=labels, values={"tomogram": np.arange(N) // 30 > 0})

    assert re.findall(r"(.+)\n(\d+)\nonly", page.text("legend")) == [
        ("20S proteasome", "20"),
        ("GroEL", "20"),
        ("ribosome", "19"),
        ("(none)", "1"),
    ]
    page.click("#legend > div:nth-child(2) .entry")
    assert page.text("hidden").startswith("20 particles hidden.")
    page.js("$('color').value = 1; $('color').dispatchEvent(new Event('change'))")
    assert re.findall(r"(.+)\n(\d+)\nonly", page.text("legend")) == [
        ("False", "30"),
        ("True", "30"),
    ]
    page.click("#legend > div:nth-child(2) .only")
    shown = np.flatnonzero(page.js("return Array.from(visible)"))
    assert shown.tolist() == [i for i in range(30, N) if labels[i] != "GroEL"]
    page.click("#hidden button")
    assert sum(page.js("return Array.from(visible)")) == N


def test_what_is_hidden_leaves_the_selection(open_page, tmp_path):
    page = open_page(labels=LABELS, names=NAMES)
    page.js("select((i) => i < 30, 'replace')")
    page.click("#legend > div:nth-child(2) .entry")
    kept = [i for i in range(30) if LABELS[i] != "GroEL"]
    assert page.selected().tolist() == kept
    assert page.text("count") == "20 particles selected"
    assert page.text("montage").split() == [NAMES[i] for i in kept]
    assert re.findall(r"(.+)\n(.+)\nonly", page.text("legend")) == [
        ("20S proteasome", "10 of 20"),
        ("GroEL", "0 of 20"),
        ("ribosome", "10 of 20"),
    ]
    content = page.download("csv", "map-selection.csv").decode("utf-8")
    rows = csv.DictReader(io.StringIO(content, newline=""))
    assert [int(row["index"]) for row in rows] == kept
    saved = tmp_path / "selected.star"
    saved.write_bytes(page.download("star", "map-selection.star"))
    assert read_particles(saved).image_names == [NAMES[i] for i in kept]
    # What comes back was taken out all the same.
    page.click("#hidden button")
    assert page.selected().tolist() == kept
    page.click("#legend > div:nth-child(2) .only")
    assert page.selected().tolist() == []
    assert page.js("return document.getElementById('csv').disabled")


def test_numbers_have_a_colour_bar(open_page, renderer):
    places = np.array([[0, 0], [1, 0], [2, 0]], np.float32)
    values = {"score": np.float32([0.1, np.nan, -2.5])}
    page = open_page(places, renderer, values=values)
    assert page.text("legend").split("\n") == ["-2.5", "0.1", "(none)", "1"]
    image = page.screenshot()
    for place, color in zip(
        places, [(253, 231, 37), (204, 204, 204), (68, 1, 84)], strict=True
    ):
        column, row = page.pixels_of(place).astype(int)
        expected = 0.85 * np.array(color) + 0.15 * 255
        np.testing.assert_allclose(image[row, column], expected, atol=2)


def test_classes_look_as_in_figures(open_page):
    n = 2 * len(CLASS_COLORS) * len(MARKERS)
    places = RNG.normal(size=(n, 2))
    page = open_page(places, labels=np.arange(n) % (n // 2))
    looks = np.reshape(page.js("return Array.from(looks)"), (n, 4))
    for number, (*color, shape) in enumerate(looks[: n // 2].tolist()):
        style = class_style(number)
        assert color == np.round(np.multiply(255, to_rgb(style["color"]))).tolist()
        assert MARKERS[shape] == style["marker"]
    assert page.text("legend").split("\n")[:6] == ["0", "2", "only", "1", "2", "only"]


def test_each_shape_looks_different(open_page, renderer):
    n = len(CLASS_COLORS)
    labels = np.arange(n * len(MARKERS))
    grid = np.stack([labels // n, labels % n], axis=1)
    page = open_page(grid, renderer, labels=labels)
    # The first colour of each round.
    places = grid[::n]
    page.js("$('size').value = $('size').max; requestDrawing()")
    image = page.screenshot()
    # A point is drawn at a pixel, or between two.
    seen = [
        image[row - 9 : row + 10, column - 9 : column + 10].mean(axis=2)
        for column, row in page.pixels_of(places).astype(int)
    ]
    differences = [
        np.abs(one - other).sum() for k, one in enumerate(seen) for other in seen[:k]
    ]
    assert min(differences) > 1500
    pictures = page.js(
        "return [...document.querySelectorAll('#legend svg')].map((s) => s.innerHTML)"
    )
    assert len(set(pictures)) == n * len(MARKERS)


def test_mouse_and_keys_move_the_map(open_page):
    from selenium.webdriver import Keys

    page = open_page()
    place = np.array([300, 200])
    start = page.pixels_of(PLACES[:2])
    page.drag([place, np.add(place, (40, -30))])
    np.testing.assert_allclose(page.pixels_of(PLACES[:2]), np.add(start, (40, -30)))
    page.press(Keys.ARROW_LEFT, Keys.ARROW_DOWN)
    np.testing.assert_allclose(page.pixels_of(PLACES[:2]), np.add(start, (80, -70)))
    page.press("0")
    np.testing.assert_allclose(page.pixels_of(PLACES[:2]), start)
    actions = page.mouse()
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    overlay = page.browser.find_element("id", "overlay")
    width, height = page.js("return [stage.width, stage.height]")
    origin = ScrollOrigin.from_element(
        overlay, round(300 - width / 2), round(200 - height / 2)
    )
    actions.scroll_from_origin(origin, 0, -200).perform()
    wait(lambda: not np.allclose(page.pixels_of(PLACES[:2]), start))
    # What is under the mouse stays there.
    zoomed = page.pixels_of(PLACES[:2])
    factor = (zoomed[1] - zoomed[0]) / (start[1] - start[0])
    np.testing.assert_allclose(factor, np.exp(0.4), rtol=1e-6)
    np.testing.assert_allclose(zoomed - place, factor * (start - place), atol=1.1)


HOSTILE = [
    "</script><script>window.harmed = 1</script>",
    "<img src=x onerror='window.harmed = 1'>",
    'a "quoted", name',
    "two\nlines",
    "{{script}} <!-- & $& ",
    "rīboşóme 核糖體 🦠",
]


def test_text_stays_text(open_page):
    names = [HOSTILE[i % len(HOSTILE)] for i in range(N)]
    page = open_page(
        labels=names, names=names, values={"<b>{{data}}": names}, title=HOSTILE[0]
    )
    assert page.js("return window.harmed") is None
    assert page.browser.title == HOSTILE[0]
    assert page.js("return document.querySelector('h1').textContent") == HOSTILE[0]
    assert page.js("return page.columns[0].texts") == sorted(HOSTILE)
    page.hover(page.pixels_of(PLACES[3]))
    assert page.js("return document.querySelector('#tip dd').textContent") == HOSTILE[3]
    page.js("select(() => true, 'replace')")
    content = page.download("csv", "map-selection.csv").decode("utf-8")
    rows = list(csv.DictReader(io.StringIO(content, newline="")))
    assert [row["name"] for row in rows] == names
    assert [row["<b>{{data}}"] for row in rows] == names
    # No STAR file can hold a line end.
    assert page.js("return document.getElementById('star').disabled")
    assert r"two\nlines" in page.text("note")


def test_csv_has_every_value(open_page):
    values = {
        "single": RNG.normal(size=N).astype(np.float32),
        "double": RNG.normal(size=N) * 1e-9,
        "whole": RNG.integers(-(2**40), 2**40, N),
        "small": np.arange(N) % 5,
        "text": [None if i == 4 else f"tomogram {i % 4}" for i in range(N)],
    }
    values["double"][4] = np.nan
    page = open_page(labels=LABELS, values=values)
    chosen = [1, 4, 17, 59]
    page.js("const rows = arguments[0]; select((i) => rows.includes(i), 'add')", chosen)
    content = page.download("csv", "map-selection.csv").decode("utf-8")
    table = list(csv.reader(io.StringIO(content, newline="")))
    assert table[0] == ["index", "class", *values, "x", "y"]
    columns = dict(zip(table[0], zip(*table[1:], strict=True), strict=True))
    assert columns["index"] == tuple(map(str, chosen))
    assert columns["class"] == tuple(LABELS[chosen])
    assert columns["text"] == ("tomogram 1", "", "tomogram 1", "tomogram 3")
    assert [int(text) for text in columns["whole"]] == values["whole"][chosen].tolist()
    for name, expected in (
        ("single", values["single"]),
        ("double", values["double"]),
        ("small", values["small"]),
        ("x", PLACES[:, 0]),
        ("y", PLACES[:, 1]),
    ):
        found = np.array([text or "nan" for text in columns[name]], expected.dtype)
        np.testing.assert_array_equal(found, expected[chosen])


STAR = """# made by hand — für die Karte
data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
1   10.0

data_particles

loop_
_rlnImageName #1
_rlnTomoName #2
_rlnOpticsGroup #3
{rows}

# the end
data_other
_rlnNote 'kept as it is'
"""


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_star_is_the_file_without_the_other_particles(open_page, tmp_path, line_end):
    rows = [f"{name}   'tomogramm {i % 5} ä'\t1" for i, name in enumerate(NAMES)]
    rows[20] += " # a comment"
    rows.insert(20, "# a line of its own")
    rows.insert(40, "")
    star = tmp_path / "particles.star"
    text = STAR.format(rows="\n".join(rows)).replace("\n", line_end)
    star.write_bytes(text.encode("utf-8"))
    page = open_page(star=star)
    # Names are those of the file.
    assert page.js("return page.names") == NAMES
    chosen = np.sort(RNG.choice(N, 23, replace=False))
    page.js(
        "const rows = arguments[0]; select((i) => rows.includes(i), 'add')",
        chosen.tolist(),
    )
    saved = tmp_path / "selected.star"
    saved.write_bytes(page.download("star", "map-selection.star"))
    read_particles(star).select(chosen).star.write(tmp_path / "expected.star")
    assert saved.read_bytes() == (tmp_path / "expected.star").read_bytes()
    assert read_particles(saved).image_names == [NAMES[i] for i in chosen]
    page.js("select(() => true, 'add')")
    assert page.download("star", "map-selection.star") == star.read_bytes()


def test_without_star_names_are_saved(open_page, tmp_path):
    names = [f"two words/{name}" for name in NAMES]
    page = open_page(names=names)
    page.js("select((i) => i % 2 === 1, 'replace')")
    saved = tmp_path / "selected.star"
    saved.write_bytes(page.download("star", "map-selection.star"))
    assert read_particles(saved).image_names == names[1::2]


def test_without_names_there_is_no_star(open_page):
    page = open_page()
    page.js("select(() => true, 'replace')")
    assert page.js("return document.getElementById('star').disabled")
    assert "without names" in page.text("note")


def test_equal_places_are_shown(open_page, renderer):
    page = open_page(np.ones((N, 4)), renderer)
    assert "NaN" not in page.text("summary")
    area = page.js("return plotArea()")
    middle = [area["left"] + area["width"] / 2, area["top"] + area["height"] / 2]
    np.testing.assert_allclose(page.pixels_of([0, 0]), middle)
    assert np.ptp(page.screenshot()[int(middle[1]), int(middle[0])]) > 20


def test_columns_that_are_not_there_are_left_out(tmp_path):
    page = tmp_path / "map.html"
    write_embedding_page(page, PLACES)
    plain = page.read_bytes()
    write_embedding_page(page, PLACES, values={"tomogram": None}, overwrite=True)
    assert page.read_bytes() == plain
    with pytest.raises(ValueError, match="values: is a ndarray; expected a mapping"):
        write_embedding_page(tmp_path / "other.html", PLACES, values=PLACES[:, 0])
