"""What must hold of the site as it was built."""

import importlib
import inspect
import zlib
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.conftest import ROOT

MODULES = [
    "cnn_ext",
    "cnn_ext.examples.exercises",
    "cnn_ext.functional",
    "cnn_ext.matrix",
    "cnn_ext.models",
    "cnn_ext.nn",
    "cnn_ext.ops",
    "cnn_ext.receptive_field",
    "cnn_ext.reference",
    "cnn_ext.transforms",
    "cnn_ext.visualize",
]


def public(name: str) -> set[str]:
    """Full names of what a module offers: its ``__all__`` or, without one, what is defined there."""
    module = importlib.import_module(name)
    here = {
        key
        for key, value in vars(module).items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == name
        and not key.startswith("_")
    }
    return {f"{name}.{key}" for key in getattr(module, "__all__", here)}


class Page(HTMLParser):
    """Anchors of a page, where it leads, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[key] for key in ("id", "name") if given.get(key)}
        if tag == "a" and "href" in given:
            self.links.add(given["href"])
        elif tag == "link":
            self.loads.add(given["href"])
        elif "src" in given:
            self.loads.add(given["src"])


@pytest.fixture
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


def test_every_public_name_is_in_the_reference(site):
    *_, listed = (site / "objects.inv").read_bytes().split(b"\n", 4)
    documented = {line.split()[0] for line in zlib.decompress(listed).decode().splitlines()}
    for module in MODULES:
        assert public(module) <= documented, module


def test_no_page_loads_anything_from_elsewhere(pages):
    for path, page in pages.items():
        remote = {url for url in page.loads if urlsplit(url).scheme not in ("", "data")}
        assert not remote, path
        assert all((path.parent / unquote(urlsplit(url).path)).exists()
                   for url in page.loads if not url.startswith("data:")), path  # fmt: skip


def test_every_link_within_the_site_leads_somewhere(pages):
    for path, page in pages.items():
        for link in page.links:
            url = urlsplit(link)
            if url.scheme:
                continue
            there = (path.parent / unquote(url.path)).resolve() if url.path else path
            assert there.exists(), (path.name, link)
            if url.fragment and there in pages:
                assert unquote(url.fragment) in pages[there].anchors, (path.name, link)


def test_every_notebook_has_a_page_and_an_entry_in_the_gallery(site, pages):
    gallery = pages[site / "notebooks.html"]
    for notebook in ROOT.glob("notebooks/*.ipynb"):
        name = f"notebooks/{notebook.stem}.html"
        assert site / name in pages
        assert name in gallery.links


def test_every_result_of_a_benchmark_is_on_the_performance_page(site):
    page = (site / "performance.html").read_text()
    for result in ROOT.glob("benchmarks/results/*.json"):
        assert result.name in page


def test_every_figure_of_a_notebook_is_shown(pages):
    for path in pages:  # a figure that was returned outside of pyplot leaves its name and no picture
        assert "&lt;Figure size" not in path.read_text(), path


def test_no_page_tells_where_it_was_built(pages):
    for path in pages:
        assert str(ROOT) not in path.read_text(), path


def test_mathematics_is_drawn_by_our_own_copy_of_mathjax(site, pages):
    with_formulas = [path for path in pages if 'class="math notranslate' in path.read_text()]
    assert site / "convolution.html" in with_formulas
    for path in with_formulas:
        assert any("tex-svg" in load for load in pages[path].loads), path
