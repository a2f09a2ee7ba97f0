"""Is this the transform that an earlier process had? Its class, state and code, and what they stand on.

:func:`of` walks a callable and gives one line of text for each part, by its path: tensors by a digest,
plain values as they are, functions by their bytecode, defaults, closures and globals, other objects by
what pickle would write. Libraries (what is installed, the standard library, this package) count by name
and version. No line has an address, so the same definitions give the same lines in another process.

What code finds out only when it runs (``getattr`` by a name, files, the environment) is not seen.
"""

from __future__ import annotations

import contextlib
import copyreg
import dis
import enum
import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import logging
import random
import site
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

PLAIN = (
    type(None), bool, int, float, complex, str, bytes, types.EllipsisType, types.NotImplementedType,
    torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size,
)  # fmt: skip
BUILTIN = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType,
    types.ClassMethodDescriptorType, types.MethodWrapperType, types.GetSetDescriptorType,
    types.MemberDescriptorType,
)  # fmt: skip
OPERATORS = (torch._ops.OpOverload, torch._ops.OpOverloadPacket)
# Of a class: what says nothing about what it does, or says again what its functions do.
UNTOLD = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__firstlineno__",
    "__static_attributes__", "__abstractmethods__", "_abc_impl", "__dataclass_fields__",
    "__dataclass_params__", "__match_args__", "__orig_bases__", "__parameters__", "__classdictcell__",
    "__slotnames__",
}  # fmt: skip
HEAP = 1 << 9  # Py_TPFLAGS_HEAPTYPE: made at run time; the others are written in C
DISTRIBUTIONS = ("torch", "torchvision", "pillow", "numpy")  # which any transform may stand on


def of(transform: Any, name: str = "transform") -> tuple[dict[str, str], dict[str, str]]:
    """What a transform consists of, by path; and versions, by name.

    Raises:
        TypeError: a part that another process could not recognise.
        ValueError: a random generator of its own, whose state is another for each sample.

    Example:
        >>> facts, versions = of(functools.partial(torch.clamp, max=0.5))
        >>> facts["transform.__keywords__"], versions["torch"] == torch.__version__
        ("{'max': 0.5}", True)
    """
    walk = _Walk(name)
    try:
        walk.read(transform, name)
    except RecursionError:
        raise TypeError(f"{name}: its parts are nested too deeply to be recognised") from None
    return walk.facts, walk.versions()


class _Walk:
    def __init__(self, name: str) -> None:
        self.name = name
        self.facts: dict[str, str] = {}
        self.seen: dict[int, str] = {}  # paths, by identity
        self.alive: list[Any] = []  # an identity is an object's own while it lives
        self.owners: list[str] = [name]
        self.packages: set[str] = set()
        self.visited: set[tuple[str, frozenset[str]]] = set()

    def versions(self) -> dict[str, str]:
        found = {"python": "{}.{}".format(*sys.version_info), "cnn_ext": _version("cnn_ext")}
        packages = self.packages - set(sys.stdlib_module_names) - {"PIL"}
        return found | {name: _version(name) for name in sorted({*DISTRIBUTIONS, *packages})}

    # ------------------------------------------------------------------------------- dispatch

    def read(self, value: Any, path: str) -> None:
        if type(value) in PLAIN or isinstance(value, OPERATORS):
            self.facts[path] = _short(repr(value))
        elif isinstance(value, types.ModuleType):
            self.module(value, path, frozenset())
        elif isinstance(value, BUILTIN):
            self.builtin(value, path)
        elif type(value) in (tuple, frozenset):  # equal ones may or may not be the same object
            self.container(value, path)
        elif id(value) in self.seen:
            self.facts[path] = f"the same as {self.seen[id(value)]}"
        else:
            self.seen[id(value)] = path
            self.alive.append(value)
            self.thing(value, path)

    def thing(self, value: Any, path: str) -> None:
        """What has an identity."""
        if _is_generator(value):
            self.generator(value, path)
        elif isinstance(value, Tensor):
            self.tensor(value, path)
        elif isinstance(value, type):
            self.class_(value, path)
        elif isinstance(value, types.FunctionType):
            self.function(value, path)
        elif isinstance(value, types.MethodType):
            self.facts[path] = f"method {value.__func__.__qualname__}"
            self.read(value.__func__, f"{path}.__func__")
            self.read(value.__self__, f"{path}.__self__")
        elif type(value) in (list, dict, set, types.MappingProxyType):
            self.container(dict(value) if isinstance(value, types.MappingProxyType) else value, path)
        elif isinstance(value, logging.Logger):
            self.facts[path] = f"logger {value.name}"
        elif type(value).__module__.startswith("numpy") and hasattr(value, "tobytes"):
            self.array(value, path)
        elif type(value).__name__ == "OptimizedModule":  # of torch.compile
            self.read(value._orig_mod, path)
        elif isinstance(value, functools.partial):
            self.facts[path] = "partial"
            parts = {"func": value.func, "args": value.args, "keywords": value.keywords}
            self.named({f"__{key}__": part for key, part in parts.items()}, path)
        elif type(value) is functools._lru_cache_wrapper:
            self.read(value.__wrapped__, f"{path}.__wrapped__")
        else:
            self.owners.append(type(value).__name__)
            (self.layers if isinstance(value, nn.Module) else self.object)(value, path)
            self.owners.pop()

    def refuse(self, value: Any, path: str, why: str = "") -> None:
        raise TypeError(
            f"{self.name}: expected what another process can recognise (functions, classes, modules, "
            f"tensors, plain values); {path} is of type {type(value).__name__}{why}. Leave it out, or "
            "make it inside the call"
        )

    def generator(self, value: Any, path: str) -> None:
        if any(value is own for own in _process_generators()):  # seeded for every sample
            self.facts[path] = "the process's random generator"
            return
        raise ValueError(
            f"{self.name}: {self.owners[-1]} has a generator of its own, whose draws depend on what "
            "was computed before; leave it out and pass seed="
        )

    # ----------------------------------------------------------------------------------- data

    def tensor(self, value: Tensor, path: str) -> None:
        kind = f"{_name(type(value))} {value.dtype}"
        try:
            kind += f" {tuple(value.shape)}"
            if value.is_quantized:
                raise TypeError("its scales are no bytes of its own")
            plain = value.detach().as_subclass(Tensor).resolve_conj().resolve_neg().cpu()
            content = plain.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        except (RuntimeError, TypeError, NotImplementedError) as error:
            raise TypeError(f"{self.name}: {path}, {kind}, has no bytes to recognise it by") from error
        self.facts[path] = f"{kind} {_digest(content)}"
        self.members(type(value), f"{path}.__class__")
        self.named(vars(value), path)  # the format of bounding boxes, say

    def array(self, value: Any, path: str) -> None:
        if value.dtype.hasobject:
            self.facts[path] = f"{type(value).__name__} {value.shape}"
            self.read(value.tolist(), f"{path}.tolist()")
        else:
            self.facts[path] = (
                f"{type(value).__name__} {value.dtype} {value.shape} {_digest(value.tobytes())}"
            )

    def container(self, value: Any, path: str) -> None:
        if isinstance(value, (set, frozenset)):
            value = self.sorted(value, path)
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        if all(type(item) in PLAIN for item in items):
            self.facts[path] = _short(repr(value))
            return
        self.facts[path] = f"{type(value).__name__} of {len(value)}"
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for number, (key, item) in enumerate(pairs):
            if type(key) in PLAIN:
                self.read(item, f"{path}[{key!r}]")
            else:
                self.read((key, item), f"{path}.items()[{number}]")
        if isinstance(value, dict):  # a transform may apply them in their order
            self.facts[f"{path}.keys()"] = _short(repr([k for k in value if type(k) in PLAIN]))

    def sorted(self, items: Iterable, path: str) -> list:
        """The members of a set in an order that does not depend on hashes."""

        def key(item: Any) -> str:
            walk = _Walk(self.name)
            walk.read(item, path)
            return repr(walk.facts)

        return sorted(items, key=key)

    def named(self, parts: dict[str, Any], path: str) -> None:
        for name, part in parts.items():
            self.read(part, f"{path}.{name}")

    # -------------------------------------------------------------------------------- objects

    def layers(self, value: nn.Module, path: str) -> None:
        """Parameters, buffers and modules by name; of the rest, what is not as in a new module."""
        self.facts[path] = _name(type(value))
        self.members(type(value), f"{path}.__class__")
        new = vars(nn.Module())
        for name, part in vars(value).items():
            if name in ("_parameters", "_buffers", "_modules"):
                self.named(part, path)
            elif name in new and isinstance(new[name], dict):
                if part:  # keys count all the hooks of a process
                    self.read(list(part.values()), f"{path}.{name}")
            elif name not in new or part != new[name]:
                self.attributes(value, {name: part}, path)

    def object(self, value: Any, path: str) -> None:
        """The class, and what pickle would write; of a user's class all attributes too."""
        if isinstance(value, Iterator):
            self.refuse(value, path, ", which gives something else each time")
        try:
            reduced = copyreg.dispatch_table.get(type(value), lambda v: v.__reduce_ex__(4))(value)
        except Exception:  # pickle's hooks raise what they like
            self.refuse(value, path)
        self.facts[path] = _name(type(value))
        if isinstance(reduced, str):  # a name in its module
            self.facts[path] += f" {reduced}"
            self.library(type(value).__module__)
            return
        self.members(type(value), f"{path}.__class__")
        make, arguments, state, *items = (*reduced, None, None, None)[:5]
        if make is not copyreg.__newobj__:  # type: ignore[attr-defined]
            self.read(make, f"{path}.__reduce__()[0]")
        arguments = tuple(part for part in arguments if part is not type(value))
        if arguments:
            self.read(arguments, f"{path}.__reduce__()[1]")
        for part in state if isinstance(state, tuple) and len(state) == 2 else (state,):  # slots, too
            if isinstance(part, dict) and all(isinstance(key, str) for key in part):
                self.attributes(value, part, path)
            elif part is not None:
                self.read(part, f"{path}.__getstate__()")
        for kind, part in zip(("list", "dict"), items, strict=False):
            if part is not None:
                self.read(list(part), f"{path}.{kind}()")
        if not _is_library_class(type(value)):
            self.hidden(value, path)

    def attributes(self, value: Any, state: dict[str, Any], path: str) -> None:
        """All but what cached properties have left: that follows from the rest."""
        for name, part in state.items():
            if not isinstance(getattr(type(value), name, None), functools.cached_property):
                self.read(part, f"{path}.{name}")

    def hidden(self, value: Any, path: str) -> None:
        """Attributes that a ``__getstate__`` leaves out, as far as they can be recognised."""
        for name, part in getattr(value, "__dict__", {}).items():
            if f"{path}.{name}" not in self.facts:
                before = self.facts.copy(), self.seen.copy(), self.visited.copy()
                try:
                    self.attributes(value, {name: part}, path)
                except TypeError:  # an open file, a lock: why a class has a state of its own
                    self.facts, self.seen, self.visited = before

    # ----------------------------------------------------------------------------------- code

    def library(self, module: str | None) -> bool:
        """Whether a module belongs to a library; its version counts from now on."""
        found = _is_library(module)
        if found and module:
            self.packages.add(module.partition(".")[0])
        return found

    def builtin(self, value: Any, path: str) -> None:
        owner = getattr(value, "__self__", None)
        module = getattr(value, "__module__", None) or getattr(owner, "__name__", None)
        self.facts[path] = f"{module or ''}.{getattr(value, '__qualname__', value.__name__)}"
        if isinstance(module, str) and not self.library(module):
            self.facts[path] += f" {_file(sys.modules.get(module))}"
        of_a_kind = isinstance(owner, (type, types.ModuleType, type(None)))
        if not of_a_kind and type(owner).__name__ != "PyCapsule":  # pybind11's, of its own making
            self.read(owner, f"{path}.__self__")

    def class_(self, value: type, path: str) -> None:
        self.facts[path] = _name(value)
        self.seen.pop(id(value))
        self.members(value, path)

    def members(self, value: type, path: str) -> None:
        """A class's functions and attributes and its bases'; of libraries, what somebody replaced."""
        if id(value) in self.seen:
            return
        self.seen[id(value)] = path
        for base in value.__mro__:
            library = self.library(base.__module__) and _is_library_class(base)
            for name, member in vars(base).items():
                replaced = isinstance(member, types.FunctionType) and not _is_library(_home(member))
                if _is_untold(value, name) or (library and not replaced):
                    continue
                for part, text in _members(member):
                    where = f"{path}.{name}{text}"
                    if where in self.facts:  # of a base, and overridden: super() may call it
                        where = f"{path}.{base.__name__}.{name}{text}"
                    self.read(part, where)

    def function(self, value: types.FunctionType, path: str) -> None:
        original = getattr(value, "_torchdynamo_orig_callable", None)
        if original is not None:  # of torch.compile
            self.read(original, path)
            return
        library = self.library(_home(value))
        digest = "" if library else f", code {_digest(_code(value.__code__))}"
        self.facts[path] = (
            f"function {_home(value) + '.' if library else ''}{value.__qualname__}{digest}"
        )
        self.owners.append(value.__name__)
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                self.read(cell.cell_contents, f"{path}.__closure__.{name}")
            except ValueError as error:
                if str(error) != "Cell is empty":
                    raise
                self.facts[f"{path}.__closure__.{name}"] = "empty"
        if not library:  # whose own attributes belong to its version
            self.named(vars(value), path)
            defaults = {"__defaults__": value.__defaults__, "__kwdefaults__": value.__kwdefaults__}
            self.named({key: part for key, part in defaults.items() if part}, path)
            self.globals(value, path)
        self.owners.pop()

    def globals(self, function: types.FunctionType, path: str) -> None:
        names = frozenset(name for code in _codes(function.__code__) for name in code.co_names)
        for name in _imported(function):
            if not self.library(name):
                with contextlib.suppress(ImportError):  # the call would fail too, or go another way
                    self.module(importlib.import_module(name), f"{path}.import({name})", names)
        for name in _loaded(function):
            where = f"{path}.__globals__.{name}"
            if isinstance(function.__globals__.get(name), types.ModuleType):
                self.module(function.__globals__[name], where, names)
            elif name in function.__globals__:
                self.read(function.__globals__[name], where)

    def module(self, value: types.ModuleType, path: str, names: frozenset[str]) -> None:
        """Of a module of the user's, those attributes whose names the code mentions."""
        self.facts[path] = f"module {value.__name__}"
        if self.library(value.__name__) or (value.__name__, names) in self.visited:
            return
        self.visited.add((value.__name__, names))
        for name in sorted(names & vars(value).keys()):
            part = vars(value)[name]
            if isinstance(part, types.ModuleType):
                self.module(part, f"{path}.{name}", names)
            else:
                self.read(part, f"{path}.{name}")


def _is_untold(kind: type, name: str) -> bool:
    if issubclass(kind, enum.Enum) and (name == "__new__" or name[:1] == "_" != name[1:2]):
        return True  # its members are class attributes too
    return name in UNTOLD or name.startswith("__annot")


def _members(member: Any) -> Iterator[tuple[Any, str]]:
    """What a class attribute does: the functions of properties and methods, or its value."""
    if isinstance(member, (staticmethod, classmethod)):
        yield member.__func__, ""
    elif isinstance(member, property):
        for part in ("fget", "fset", "fdel"):
            if getattr(member, part) is not None:
                yield getattr(member, part), f".{part}"
    elif isinstance(member, functools.cached_property):
        yield member.func, ""
    elif not isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
        yield member, ""


def _home(function: types.FunctionType) -> str:
    """The module that defines a function, which ``functools.wraps`` cannot change."""
    return function.__globals__.get("__name__") or ""


def _name(kind: type) -> str:
    """A library's class with its module; a user's without: its code counts, and ``__main__`` varies."""
    module = f"{kind.__module__}." if _is_library_class(kind) else ""
    return f"{module}{kind.__qualname__}"


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _code(code: types.CodeType) -> bytes:
    """All that a function does, without lines and file names."""

    def text(constant: Any) -> str:
        if isinstance(constant, types.CodeType):
            return _digest(_code(constant))
        if isinstance(constant, tuple):
            return f"({','.join(map(text, constant))})"
        if isinstance(constant, frozenset):
            return f"{{{','.join(sorted(map(text, constant)))}}}"
        return f"{type(constant).__name__} {constant!r}"

    rest = (
        text(code.co_consts), code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
        code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags,
        code.co_exceptiontable,
    )  # fmt: skip
    return code.co_code + repr(rest).encode()


def _loaded(function: types.FunctionType) -> list[str]:
    """The global names that a function reads, in their order."""
    steps = (step for code in _codes(function.__code__) for step in dis.get_instructions(code))
    return list(dict.fromkeys(s.argval for s in steps if s.opname in ("LOAD_GLOBAL", "LOAD_NAME")))


def _imported(function: types.FunctionType) -> Iterator[str]:
    """The modules that a function imports, by their whole names."""
    package = function.__globals__.get("__package__")
    for code in _codes(function.__code__):
        steps = [step for step in dis.get_instructions(code) if step.opname != "EXTENDED_ARG"]
        for level, _, step in zip(steps, steps[1:], steps[2:], strict=False):  # level, names, import
            if step.opname == "IMPORT_NAME":
                dots = "." * level.argval if isinstance(level.argval, int) else ""
                with contextlib.suppress(ImportError):
                    yield importlib.util.resolve_name(dots + step.argval, package)


def _is_generator(value: Any) -> bool:
    numpy = sys.modules.get("numpy.random")
    kinds = (numpy.Generator, numpy.RandomState, numpy.BitGenerator) if numpy else ()
    return isinstance(value, (torch.Generator, random.Random, *kinds))


def _process_generators() -> list[Any]:
    numpy = sys.modules.get("numpy.random.mtrand")
    return [torch.default_generator, random._inst, *([numpy._rand] if numpy else [])]  # type: ignore[attr-defined]


@functools.cache
def _places() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    own = (paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib"))
    return tuple(
        {Path(p).resolve() for p in (*own, *site.getsitepackages(), site.getusersitepackages())}
    )


@functools.cache
def _is_library(module: str | None) -> bool:
    """Whether a module is installed, and not somebody's own code, which may change at any time."""
    top = (module or "").partition(".")[0]
    if top in ("builtins", "cnn_ext") or top in sys.stdlib_module_names:
        return True
    if top in ("__main__", "__mp_main__"):  # in a notebook its file is the kernel's
        return False
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if top and top not in sys.modules:  # imported by a function that has not run yet
        with contextlib.suppress(ImportError, ValueError):
            file = getattr(importlib.util.find_spec(top), "origin", None)
    return file is not None and any(Path(file).resolve().is_relative_to(p) for p in _places())


def _is_library_class(kind: type) -> bool:
    """Whether a library has it by its name: ``exec`` and factories lend a library's to others."""
    if not _is_library(kind.__module__):
        return False
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    return found is kind or not kind.__flags__ & HEAP


def _version(package: str) -> str:
    """As installed; what is not, or under another name (cv2), is asked itself."""
    if package not in ("cnn_ext", "torch"):  # always loaded; torch tells which build it is
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(package)
    return str(getattr(sys.modules.get(package), "__version__", "none"))


def _file(module: types.ModuleType | None) -> str:
    """Of compiled code of the user's own, the file."""
    path = getattr(module, "__file__", None)
    return _digest(Path(path).read_bytes()) if path else ""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:40]}… {_digest(text.encode())}"
