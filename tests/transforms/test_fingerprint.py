"""The same transform has the same lines in every process; another has another line, or is refused."""

import collections
import copy
import dataclasses
import enum
import functools
import importlib
import logging
import pickle
import random
import re
import sys
import threading
import types

import numpy
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from cnn_ext.transforms import ColorPCA, RandomColorPCA, alexnet_train, fingerprint


def facts(transform):
    return fingerprint.of(transform)[0]


def differing(one, other):
    """The paths of the lines that differ."""
    a, b = facts(one), facts(other)
    return [path for path in {**a, **b} if a.get(path) != b.get(path)]


def defined(source, **globals_):
    """A function ``f``, defined anew each time; its globals are all its own."""
    space = {"torch": torch, **globals_}
    exec(source, space)
    return space["f"]


# ------------------------------------------------------------------------------------- the same

EPS = torch.finfo(torch.float32).eps


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass
class Settings:
    by: int = 3
    names: set = dataclasses.field(default_factory=lambda: {"a", "b", "c"})


class Slotted:
    __slots__ = ("by", "unset")

    def __init__(self, by):
        self.by = by


class Hiding:
    """Pickles nothing."""

    def __init__(self, by):
        self.by, self.lock = by, threading.Lock()

    def __getstate__(self):
        return {}


class HidingMore(Hiding):
    """The tensor is met twice, first beside what cannot be recognised."""

    def __init__(self, by):
        self.tensor = torch.tensor(by)
        self.mixed = {"tensor": self.tensor, "lock": threading.Lock()}
        self.tensor, self.again = None, self.tensor


class Cached:
    def __init__(self, by):
        self.by = by

    @functools.cached_property
    def table(self):
        return [self.by] * 3


class Class:
    def __init__(self, by):
        self.by = by

    def method(self, image):
        return image + self.by

    @classmethod
    def of_class(cls, image):
        return image


class Hooked(nn.Sequential):
    def __init__(self, by):
        super().__init__(nn.Identity())
        self.register_forward_hook(functools.partial(Class.method, by))


class Buffered(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.register_buffer("by", torch.tensor(float(by)))


class Default:
    def __new__(cls, by):
        return defined(f"def f(image, by={by}): return image + by")


def closure(by):
    return lambda image: image + by


def decorated(by):
    @torch.no_grad()
    @functools.wraps(torch.add)  # which names another module
    def transform(image):
        return image + by

    return transform


def with_attribute(by):
    function = defined("def f(image): return image + f.by")
    function.by = by
    return function


def cyclic(by):
    cycle = [by]
    cycle.append(cycle)
    return functools.partial(print, cycle)


KINDS = {
    "closure": closure,
    "decorated": decorated,
    "default": Default,
    "keyword default": lambda by: defined(f"def f(image, *, by={by}): return image + by"),
    "attribute of a function": with_attribute,
    "constant": lambda by: defined(f"def f(image): return image + {by}"),
    "nested": lambda by: defined(f"def f(image): return [image + {by} for _ in image]"),
    "global": lambda by: defined("def f(image): return image + BY", BY=by),
    "global of a global": lambda by: defined(
        "def f(image): return g(image)", g=defined("def f(image): return image + BY", BY=by)
    ),
    "global table": lambda by: defined("def f(image): return T['a'][0]", T={"a": [torch.tensor(by)]}),
    "partial": lambda by: functools.partial(torch.add, other=by),
    "method": lambda by: Class(by).method,
    "object": Class,
    "settings": Settings,
    "slots": Slotted,
    "state that pickle does not see": Hiding,
    "state beside a lock": HidingMore,
    "cached": Cached,
    "buffer": Buffered,
    "hook": Hooked,
    "cycle": cyclic,
    "tensor": lambda by: functools.partial(torch.add, other=torch.full((2, 2), by)),
    "one bit of a tensor": lambda by: functools.partial(torch.add, other=torch.tensor(1 + by * EPS)),
    "array": lambda by: functools.partial(numpy.add, numpy.full((2, 2), by)),
    "objects in an array": lambda by: functools.partial(numpy.add, numpy.array([None, {by}], object)),
    "boxes": lambda by: functools.partial(
        print, tv_tensors.BoundingBoxes(torch.ones(1, 4), format="XYXY", canvas_size=(9, by))
    ),
    "image": lambda by: functools.partial(print, Image.new("RGB", (2, 2), (by, 0, 0))),
    "set": lambda by: functools.partial(print, {"x", "y", str(by)}),
    "set of objects": lambda by: functools.partial(print, {Color.RED, Color(by % 2 + 1), "x"}),
    "deque": lambda by: functools.partial(print, collections.deque([by], maxlen=2)),
    "pattern": lambda by: re.compile(f"a{by}").sub,
    "v2": lambda by: v2.Compose([v2.ToImage(), v2.RandomCrop(by + 4)]),
    "v2 lambda": lambda by: v2.Lambda(closure(by)),
    "compiled": lambda by: torch.compile(closure(by)),
    "compiled module": lambda by: torch.compile(Buffered(by)),
    "colour": lambda by: RandomColorPCA(ColorPCA(torch.eye(3), [0.1 + by / 100, 0.1, 0.1])),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_state_and_code_has_the_same_lines_and_another_differs(kind):
    make = KINDS[kind]
    assert differing(make(1), make(1)) == []
    assert differing(make(1), make(2)) != []
    assert not any("0x" in line for line in facts(make(1)).values())


@pytest.mark.parametrize("kind", ["object", "settings", "slots", "buffer", "v2", "colour", "hook"])
def test_a_copy_is_the_same(kind):
    original = KINDS[kind](1)
    assert differing(original, copy.deepcopy(original)) == []
    if kind != "hook":
        assert differing(original, pickle.loads(pickle.dumps(original))) == []


def test_a_change_is_named_by_its_path():
    pipelines = [v2.Compose([v2.ToImage(), v2.RandomCrop(size)]) for size in (4, 5)]
    assert differing(*pipelines) == ["transform.transforms[1].size"]
    assert differing(Buffered(1), Buffered(2)) == ["transform.by"]
    assert differing(closure(1), closure(2)) == ["transform.__closure__.by"]
    assert differing(KINDS["global"](1), KINDS["global"](2)) == ["transform.__globals__.BY"]


def test_modes_order_and_types_count():
    layers = nn.Sequential(nn.Dropout(), nn.ReLU())
    assert differing(layers, copy.deepcopy(layers).eval())
    assert differing(
        functools.partial(print, {"a": 1, "b": 2}), functools.partial(print, {"b": 2, "a": 1})
    )
    for one, other in ((1, 1.0), (1, True), ("1", 1), ((1,), [1]), (0.0, -0.0)):
        assert differing(functools.partial(print, one), functools.partial(print, other))
    for dtype in (torch.float32, torch.bfloat16, torch.complex64, torch.uint16):
        ones = torch.ones(2, 2).to(dtype)
        assert differing(functools.partial(print, ones), functools.partial(print, ones.view(1, 4)))
        assert not differing(functools.partial(print, ones), functools.partial(print, ones.mT))


def test_the_place_of_code_does_not_count():
    moved = "\n\n# elsewhere\ndef f(x):\n  return x + 1"
    assert differing(defined("def f(x): return x + 1"), defined(moved)) == []


def test_globals_that_are_not_read_do_not_count():
    one, other = (defined("def f(x): return x + A", A=1, B=b) for b in (1, 2))
    assert differing(one, other) == []


def test_an_attribute_that_a_cached_property_left_does_not_count():
    used = Cached(1)
    assert used.table == [1, 1, 1]
    assert differing(used, Cached(1)) == []


# ----------------------------------------------------------------------------- classes, modules


def class_of(body, bases=()):
    space = {}
    exec("\n ".join(["class Made(*bases):", *body.split("; ")]), {"bases": bases}, space)
    return space["Made"]


def test_a_class_that_a_factory_made_in_a_librarys_name_counts():
    kinds = [dataclasses.make_dataclass("Made", [("by", int, by)]) for by in (1, 1, 2)]
    assert differing(kinds[0], kinds[1]) == []
    assert differing(kinds[0], kinds[2]) != []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("def __call__(self, x): return x + 1", "def __call__(self, x): return x + 2"),
        ("level = 1", "level = 2"),
        ("p = property(lambda self: 1)", "p = property(lambda self: 2)"),
        ("s = staticmethod(lambda x: 1)", "s = staticmethod(lambda x: 2)"),
        ("c = classmethod(lambda cls: 1)", "c = classmethod(lambda cls: 2)"),
    ],
    ids=["method", "attribute", "property", "static", "class"],
)
def test_a_class_counts_and_its_bases(one, other):
    assert differing(class_of(one)(), class_of(one)()) == []
    assert differing(class_of(one)(), class_of(other)()) != []
    derived = [class_of("x = 1", (class_of(body),))() for body in (one, other)]
    assert differing(*derived) != []
    functions = [defined("def f(x): return C()(x)", C=class_of(body)) for body in (one, other)]
    assert differing(*functions) != []


def test_a_librarys_method_that_was_replaced_counts(monkeypatch):
    before = facts(v2.RandomCrop(4))
    monkeypatch.setattr(v2.RandomCrop, "transform", lambda self, inpt, params: inpt)
    assert facts(v2.RandomCrop(4)) != before


@pytest.mark.parametrize(
    "how", ["import helpers_{0} as h", "h = None; global h_; import helpers_{0} as h"]
)
def test_modules_of_ones_own_count_as_far_as_they_are_used(how, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for name, factor in (("a", 2), ("b", 2), ("c", 3)):
        (tmp_path / f"helpers_{name}.py").write_text(
            f"F = {factor}\nUNUSED = {name!r}\ndef scale(x): return x * F\n"
        )
    inside = [defined(f"def f(x):\n {how.format(n)}\n return h.scale(x)") for n in "abc"]
    lines = [
        repr(facts(f) | {"transform": ""}).replace(f"helpers_{n}", "h")
        for n, f in zip("abc", inside, strict=True)
    ]
    assert lines[0] == lines[1] != lines[2]
    module = [importlib.import_module(f"helpers_{n}") for n in "abc"]
    outside = [
        defined("def f(x): return h.scale(x)", h=types.SimpleNamespace(scale=m.scale)) for m in module
    ]
    assert differing(outside[0], outside[1]) == []
    assert differing(outside[0], outside[2]) != []
    globals_ = [defined("def f(x): return h.scale(x)", h=m) for m in module]
    assert differing(globals_[0], globals_[2]) == [
        "transform.__globals__.h", "transform.__globals__.h.scale.__globals__.F",
    ]  # fmt: skip


def test_libraries_count_by_name_and_version():
    lines, versions = fingerprint.of(alexnet_train())
    assert not any("code" in line for line in lines.values())
    assert {"python", "torch", "torchvision", "pillow", "numpy", "cnn_ext"} <= versions.keys()
    assert versions["torch"] == torch.__version__
    bars = defined("def f(x): return tqdm.tqdm(x)", tqdm=importlib.import_module("tqdm"))
    assert "tqdm" in fingerprint.of(bars)[1]


def test_an_import_inside_a_function_is_known_without_running_a_library(monkeypatch):
    lines, versions = fingerprint.of(defined("def f(x): import pygments; return x"))
    assert "pygments" in versions
    assert lines.keys() == {"transform"}
    assert facts(defined("def f(x): import not_installed_anywhere; return x"))
    assert facts(defined("def f(x): from . import sibling; return x"))


def test_a_logger_is_known_by_its_name():
    assert facts(defined("def f(x): log.info(x)", log=logging.getLogger("a")))


# ------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    "part",
    [
        threading.Lock(), (i for i in ()), iter([1]), torch.empty(2, device="meta"),
        torch.eye(2).to_sparse(), sys.stderr, nn.LazyLinear(3).weight,
    ],
    ids=["lock", "generator", "iterator", "meta", "sparse", "file", "lazy"],
)  # fmt: skip
def test_what_another_process_could_not_recognise_is_refused(part):
    for transform, path in (
        (closure(part), "transform.__closure__.by"),
        (Class(part), "transform.by"),
        (Class([{"a": part}]), r"transform.by\[0\]\['a'\]"),
        (defined("def f(x): return x + P", P=part), "transform.__globals__.P"),
    ):
        with pytest.raises(TypeError, match=f"^transform: .*{path}"):
            facts(transform)


def test_what_is_nested_beyond_measure_is_refused():
    deep = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(TypeError, match="nested too deeply"):
        facts(Class(deep))


@pytest.mark.parametrize(
    "generator",
    [torch.Generator(), numpy.random.default_rng(0), numpy.random.RandomState(0), random.Random(0)],
    ids=["torch", "numpy", "numpy's old", "python"],
)
def test_a_generator_of_ones_own_is_refused_with_its_owner(generator):
    with pytest.raises(ValueError, match="transform: Class has a generator of its own"):
        facts(v2.Compose([v2.ToImage(), Class(generator)]))
    with pytest.raises(ValueError, match="f has a generator of its own"):
        facts(defined("def f(x): return x + G", G=generator))


def test_the_generators_of_the_process_are_seeded_and_so_allowed():
    for part in (torch.default_generator, random.random, random.choice, numpy.random.rand):
        assert facts(Class(part))
