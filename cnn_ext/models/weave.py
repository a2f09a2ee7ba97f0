"""Rewrites a method so that a call may wait until it is known what its result is given to.

``y = self.conv(x); y = self.bn(y)`` becomes ``y = lazily(self.conv, x); y = lazily(self.bn, y)``: see
:mod:`cnn_ext.models.pending`. What waits is a local variable that nothing but the next call can see. It
waits only while nothing happens that could change what it was called with. Every other use, and every
statement that may have an effect, is preceded by ``y = settle(y)``. So each branch of the code computes
what the code says, whichever is taken.
"""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import itertools
import linecache
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CellType, CodeType, FunctionType

import torch

LAZY = "__lazily"  # ends the name of the version of a method that may return what still waits
NAMES = {"lazily": "_cnn_lazily", "settle": "_cnn_settle", "method": "_cnn_method",
         "isinstance": "_cnn_isinstance", "type": "_cnn_type"}  # fmt: skip
INNER = "_cnn_inner"
# Calls that change nothing, as far as their arguments are modules, tensors and numbers.
PURE = (isinstance, issubclass, type, getattr, hasattr, len, callable, bool, int, float, id, range,
        enumerate, zip, reversed, max, min, super, torch.is_grad_enabled, torch.is_tensor,
        torch.jit.is_scripting, torch.jit.is_tracing, torch.is_inference_mode_enabled,
        torch.compiler.is_compiling)  # fmt: skip
# Methods of tensors that change nothing.
PURE_METHODS = {"size", "dim", "ndimension", "numel", "mean", "sum", "std", "var", "max", "min", "any",
                "all", "item", "abs", "norm", "new_zeros", "new_ones", "is_contiguous"}  # fmt: skip
SEES_ALL = {"locals", "vars", "eval", "exec", "dir", "globals", "_getframe", "currentframe"}
SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef, ast.ListComp, ast.SetComp,
          ast.DictComp, ast.GeneratorExp)  # fmt: skip
Live = Callable[[str], bool]


class NotWovenError(Exception):
    """Says why a function cannot be rewritten."""


def weave(
    function: FunctionType, methods: frozenset[str], helpers: Mapping[str, object]
) -> tuple[FunctionType, FunctionType] | None:
    """The function rewritten twice: returning values, and returning what may still wait.

    Args:
        function: written in Python, and its source at hand.
        methods: names of the methods that are rewritten too.
        helpers: what the keys of ``NAMES`` stand for.

    Returns:
        None if nothing in it could wait.

    Raises:
        NotWovenError: with the reason.
    """
    node = _definition(function)
    _refuse_what_is_not_understood(node)
    woven = []
    for lazy_return in (False, True):
        weaver = _Weaver(copy.deepcopy(node), function, methods, lazy_return)
        body = weaver.function()
        if not weaver.sites:
            return None
        woven.append(_compiled(function, node, body, helpers))
    return woven[0], woven[1]


# ---------------------------------------------------------------------------------------------
# Source
# ---------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=64)
def _parsed(filename: str, source: str) -> tuple[ast.Module, dict[tuple[str, int], list[CodeType]]]:
    """A file's tree, and the code of its functions by name and first line."""
    tree = ast.parse(source, filename)
    codes: dict[tuple[str, int], list[CodeType]] = {}
    stack = [compile(tree, filename, "exec", dont_inherit=True)]
    while stack:
        code = stack.pop()
        codes.setdefault((code.co_name, code.co_firstlineno), []).append(code)
        stack += [c for c in code.co_consts if isinstance(c, CodeType)]
    return tree, codes


def _definition(function: FunctionType) -> ast.FunctionDef:
    """The function as its file defines it; the file must still be the one that is running."""
    code = function.__code__
    lines = linecache.getlines(code.co_filename, function.__globals__)
    try:
        tree, codes = _parsed(code.co_filename, "".join(lines))
    except SyntaxError as error:
        raise NotWovenError("its source cannot be read") from error
    same = codes.get((code.co_name, code.co_firstlineno), [])
    if not any(_equal(code, other) for other in same):
        raise NotWovenError("its source is not at hand")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name == code.co_name:
            if min((node.lineno, *(d.lineno for d in node.decorator_list))) == code.co_firstlineno:
                return node
        elif isinstance(node, ast.Lambda) and code.co_name == "<lambda>" and _is_of(code, node):
            returned = ast.copy_location(ast.Return(node.body), node.body)
            made = ast.FunctionDef("lambda_", node.args, [returned], [])
            return ast.fix_missing_locations(ast.copy_location(made, node))
    raise NotWovenError("its source is not at hand")


def _equal(code: CodeType, other: CodeType) -> bool:
    """Whether two pieces of code do the same."""
    names = ("co_code", "co_names", "co_varnames", "co_freevars", "co_cellvars", "co_exceptiontable")
    if any(getattr(code, n) != getattr(other, n) for n in names):
        return False
    if len(code.co_consts) != len(other.co_consts):
        return False
    return all(
        _equal(a, b) if isinstance(a, CodeType) and isinstance(b, CodeType)
        else type(a) is type(b) and a == b
        for a, b in zip(code.co_consts, other.co_consts, strict=True)
    )  # fmt: skip


def _is_of(code: CodeType, node: ast.Lambda) -> bool:
    """Whether the code lies where this lambda's body does: many lambdas may share a line."""
    start = (node.body.lineno, node.body.col_offset)
    end = (node.body.end_lineno, node.body.end_col_offset)
    places = [(line, column) for line, _, column, to in code.co_positions()
              if line is not None and column is not None and (column or to)]  # fmt: skip
    return node.lineno == code.co_firstlineno and all(start <= p < end for p in places)  # type: ignore


def _refuse_what_is_not_understood(node: ast.FunctionDef) -> None:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Yield | ast.YieldFrom | ast.Await | ast.Match):
            raise NotWovenError("it is a generator or a coroutine, or matches patterns")
        name = getattr(inner, "id", getattr(inner, "attr", ""))
        if name in SEES_ALL:
            raise NotWovenError(f"it calls {name}")
        if isinstance(name, str) and name.startswith("__") and not name.endswith("__"):
            raise NotWovenError("it has names that are private to the class")


def _compiled(
    function: FunctionType, node: ast.FunctionDef, body: list[ast.stmt], helpers: Mapping[str, object]
) -> FunctionType:
    """The function with another body: same globals, defaults and variables of outer functions."""
    code = function.__code__
    arguments = copy.deepcopy(node.args)
    arguments.defaults = [ast.Constant(None) for _ in arguments.defaults]
    arguments.kw_defaults = [d and ast.Constant(None) for d in arguments.kw_defaults]
    for argument in ast.walk(arguments):
        if isinstance(argument, ast.arg):
            argument.annotation = None
    inner = ast.FunctionDef(INNER, arguments, body, [])  # its own name may be a global's
    outer_names = dict.fromkeys((*NAMES.values(), *code.co_freevars))
    outer = ast.FunctionDef(
        "outer", ast.arguments([], [ast.arg(n) for n in outer_names], None, [], [], None, []),
        [inner], [],
    )  # fmt: skip
    module = ast.Module([ast.copy_location(outer, node)], [])
    for made in (outer, inner):
        made.type_params = []  # type: ignore[attr-defined]
        ast.copy_location(made, node)
    ast.fix_missing_locations(module)
    flags = code.co_flags & 0x1000000  # from __future__ import annotations
    compiled = compile(module, code.co_filename, "exec", flags=flags, dont_inherit=True)
    (outer_code,) = (c for c in compiled.co_consts if isinstance(c, CodeType))
    (inner_code,) = (c for c in outer_code.co_consts if isinstance(c, CodeType) and c.co_name == INNER)
    cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
    cells |= {NAMES[name]: CellType(helper) for name, helper in helpers.items()}
    closure = tuple(cells[name] for name in inner_code.co_freevars)
    inner_code = inner_code.replace(
        co_name=code.co_name, co_qualname=code.co_qualname, co_firstlineno=code.co_firstlineno
    )
    woven = FunctionType(
        inner_code, function.__globals__, function.__name__, function.__defaults__, closure
    )
    woven.__kwdefaults__ = function.__kwdefaults__
    woven.__doc__, woven.__module__ = function.__doc__, function.__module__
    woven.__annotations__ = function.__annotations__
    return woven


# ---------------------------------------------------------------------------------------------
# What is read, and what may have an effect
# ---------------------------------------------------------------------------------------------


def _in_order(node: ast.AST) -> Iterator[ast.AST]:
    """The node and all that is in it, in the order of evaluation; an outer call before its parts."""
    yield node
    fields = ast.iter_child_nodes(node)
    if isinstance(node, ast.IfExp):
        fields = iter((node.test, node.body, node.orelse))
    elif isinstance(node, ast.Assign):
        fields = iter((node.value, *node.targets))
    for field in fields:
        yield from _in_order(field)


def _loads(nodes: ast.AST | Iterable[ast.AST], name: str) -> bool:
    nodes = [nodes] if isinstance(nodes, ast.AST) else nodes
    return any(
        isinstance(n, ast.Name) and n.id == name and not isinstance(n.ctx, ast.Store)
        for node in nodes for n in ast.walk(node)
    )  # fmt: skip


def _live(rest: list[ast.stmt], name: str, after: Live) -> bool:
    """Whether the variable may be read before it is assigned anew. Says yes when not sure."""
    for i, s in enumerate(rest):
        if isinstance(s, ast.Return | ast.Raise):
            return _loads(s, name)
        if isinstance(s, ast.If):
            if _loads(s.test, name):
                return True
            then: Live = functools.partial(_live_after, rest[i + 1 :], after)
            return _live(s.body, name, then) or _live(s.orelse, name, then)
        if isinstance(s, ast.With):
            if _loads(s.items, name):
                return True
            return _live([*s.body, *rest[i + 1 :]], name, after)
        if isinstance(s, ast.Break | ast.Continue):
            return True
        if isinstance(s, ast.AugAssign) and _stores(s.target, name):
            return True
        if _loads(s, name):
            return True
        if isinstance(s, ast.Assign) and any(_stores(t, name) for t in s.targets):
            return False
    return after(name)


def _live_after(rest: list[ast.stmt], after: Live, name: str) -> bool:
    return _live(rest, name, after)


def _stores(target: ast.AST, name: str) -> bool:
    return any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(target))


def _settled(name: str) -> ast.stmt:
    call = ast.Call(ast.Name(NAMES["settle"], ast.Load()), [ast.Name(name, ast.Load())], [])
    return ast.Assign([ast.Name(name, ast.Store())], call)


# ---------------------------------------------------------------------------------------------
# Rewriting
# ---------------------------------------------------------------------------------------------


class _Weaver:
    """Rewrites the body of one function. ``waiting`` are the variables that may hold what waits."""

    def __init__(
        self, node: ast.FunctionDef, function: FunctionType, methods: frozenset[str], lazy_return: bool
    ) -> None:
        self.node, self.namespace, self.methods = node, function.__globals__, methods
        self.lazy_return = lazy_return
        arguments = [*node.args.posonlyargs, *node.args.args]
        self.this = arguments[0].arg if arguments else ""
        self.own = {a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)}
        self.own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name)
                     and isinstance(n.ctx, ast.Store)}  # fmt: skip
        self.own |= set(function.__code__.co_freevars)
        self.sites = 0
        self.inside = 0  # of how many with and try statements
        self.locals = self._simple_locals()
        # What the lazy version of a method is called with may still wait.
        given = {a.arg for a in arguments[1:2]} if lazy_return else set()
        self.waiting: set[str] = given & self.locals
        self.bound = {
            a.arg for a in ast.walk(node.args) if isinstance(a, ast.arg)
        }  # certainly: only what is bound can be settled

    def function(self) -> list[ast.stmt]:
        """The new body."""
        return self.block(self.node.body, lambda name: False)

    def _simple_locals(self) -> set[str]:
        """Variables that only plain assignments and loops set, and that no inner function sees."""
        names = {a.arg for a in (*self.node.args.posonlyargs, *self.node.args.args)}
        others: set[str] = set()
        for outer in ast.walk(self.node):
            if isinstance(outer, ast.Assign):
                names |= {t.id for t in outer.targets if isinstance(t, ast.Name)}
            elif isinstance(outer, SCOPES) and outer is not self.node:
                others |= {n.id for n in ast.walk(outer) if isinstance(n, ast.Name)}
            elif isinstance(outer, ast.NamedExpr | ast.With | ast.Try | ast.Delete):
                # A try statement is left at any call: nothing may wait in what it sets.
                parts: list = outer.items if isinstance(outer, ast.With) else [outer]
                others |= {
                    n.id
                    for p in parts
                    for n in ast.walk(p)
                    if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store | ast.Del)
                }
                others |= {h.name for h in getattr(outer, "handlers", ()) if h.name}
            elif isinstance(outer, ast.Global | ast.Nonlocal):
                others |= set(outer.names)
        return names - others

    # -- statements

    def block(self, statements: list[ast.stmt], after: Live) -> list[ast.stmt]:
        new: list[ast.stmt] = []
        for i, statement in enumerate(statements):
            then = functools.partial(_live_after, statements[i + 1 :], after)
            new += self.statement(statement, then)
        return new

    def statement(self, s: ast.stmt, then: Live) -> list[ast.stmt]:
        """The statement, and before it the variables that cannot wait any longer."""
        if isinstance(s, ast.If):
            return self._if(s, then)
        if isinstance(s, ast.For):
            return self._for(s, then)
        if isinstance(s, ast.While):
            return self._while(s, then)
        if isinstance(s, ast.With):
            return self._with(s, then)
        if isinstance(s, ast.Try):
            return self._try(s, then)
        if isinstance(s, ast.Break | ast.Continue):
            return [*self._settle(self.waiting), s]
        if isinstance(s, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            return [*self._settle(self.waiting), s]
        return self._simple(s, then)

    def _simple(self, s: ast.stmt, then: Live) -> list[ast.stmt]:
        target = None
        if isinstance(s, ast.Assign) and len(s.targets) == 1 and isinstance(s.targets[0], ast.Name):
            target = s.targets[0].id

        def live(name: str) -> bool:  # a variable that this very statement sets is dead behind it
            return not isinstance(s, ast.Return) and name != target and then(name)

        before = self._before(s, live)
        if target in self.locals:
            s.value, waits = self.lazy(s.value)  # type: ignore[attr-defined]
            (self.waiting.add if waits else self.waiting.discard)(target)  # type: ignore[arg-type]
        elif isinstance(s, ast.Return) and s.value is not None:
            s.value, waits = self.lazy(s.value)
            if waits and not (self.lazy_return and not self.inside):
                s.value = self._call("settle", [s.value])
        else:
            self._eager_parts(s)
        self.waiting = {name for name in self.waiting if name == target or live(name)}
        self.bound |= {n.id for n in ast.walk(s)
                       if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}  # fmt: skip
        return [*before, s]

    def _if(self, s: ast.If, then: Live) -> list[ast.stmt]:
        def inner(name: str) -> bool:
            return _live(s.body, name, then) or _live(s.orelse, name, then)

        before = self._before(s.test, inner)
        s.test = self.eager(s.test)
        waiting, bound = self.waiting, self.bound
        branches = []
        for block in (s.body, s.orelse):
            self.waiting, self.bound = set(waiting), set(bound)
            new = self.block(block, then)
            ends = bool(block) and isinstance(
                block[-1], ast.Return | ast.Raise | ast.Break | ast.Continue
            )
            branches.append((new, ends, self.waiting, self.bound))
        going_on = [b for b in branches if not b[1]] or branches
        self.bound = set.intersection(*(b[3] for b in going_on))
        for new, _, waiting, _ in going_on:
            self.waiting = waiting
            new += self._settle(waiting - self.bound)
        self.waiting = {n for b in going_on for n in b[2] & self.bound}
        s.body, s.orelse = branches[0][0], branches[1][0]
        return [*before, s]

    def _for(self, s: ast.For, then: Live) -> list[ast.stmt]:
        original = s.body

        def around(name: str) -> bool:
            return _live(original, name, then) or then(name)

        before = self._before(s.iter, around)
        steady = self._is_steady(s.iter)
        if not steady:
            before += self._settle(self.waiting)
        s.iter = self.eager(s.iter)
        targets = {n.id for n in ast.walk(s.target) if isinstance(n, ast.Name)}
        bound = self.bound
        while True:  # until what waits at the end of the body was thought of at its start
            before_body, self.bound = set(self.waiting), bound | targets
            self.waiting -= targets
            body = self.block(copy.deepcopy(original), around)
            body += self._settle(self.waiting - bound if steady else self.waiting)
            if self.waiting <= before_body:
                break
            self.waiting |= before_body
        s.body = body
        self.waiting |= before_body
        self.bound = bound
        s.orelse = self.block(s.orelse, then)
        return [*before, s]

    def _while(self, s: ast.While, then: Live) -> list[ast.stmt]:
        original, bound = s.body, set(self.bound)
        before = self._settle(self.waiting)
        s.test = self.eager(s.test)
        body = self.block(
            s.body, lambda name: _loads(s.test, name) or _live(original, name, then) or then(name)
        )
        s.body = [*body, *self._settle(self.waiting)]
        self.bound = bound
        s.orelse = self.block(s.orelse, then)
        return [*before, s, *self._settle(self.waiting)]

    def _with(self, s: ast.With, then: Live) -> list[ast.stmt]:
        before = self._settle(self.waiting)
        for item in s.items:
            item.context_expr = self.eager(item.context_expr)
        self.inside += 1
        bound = set(self.bound)
        body = self.block(s.body, then)
        waiting = {name for name in self.waiting & bound if then(name)}
        s.body = [*body, *self._settle(self.waiting)]
        self.inside, self.bound = self.inside - 1, bound
        self.waiting = waiting  # the context may have swallowed an exception
        return [*before, s]

    def _try(self, s: ast.Try, then: Live) -> list[ast.stmt]:
        before = self._settle(self.waiting)
        self.inside, bound = self.inside + 1, set(self.bound)
        for block in (s.body, s.orelse, s.finalbody, *(h.body for h in s.handlers)):
            block[:] = self.block(block, lambda name: True)
        self.inside, self.bound = self.inside - 1, bound
        return [*before, s]

    def _settle(self, names: set[str]) -> list[ast.stmt]:
        made = [_settled(name) for name in sorted(names)]
        self.waiting = self.waiting - names
        return made

    def _before(self, s: ast.AST, live: Live) -> list[ast.stmt]:
        """Settles what this statement, or expression, reads or may disturb.

        What is dead behind the statement and goes to one call alone may wait on, if nothing that might
        have an effect is evaluated before it.
        """
        settle, calls = set(), self._effects(s)
        for name in self.waiting:
            places = list(_paths(s, name))
            if not places:
                if calls and live(name):
                    settle.add(name)
                continue
            if (
                live(name)
                or not all(self._may_wait(path, calls) for path in places)
                or (len(places) > 1 and not _are_alternatives(places))
            ):
                settle.add(name)
        before = self._settle(settle)
        if calls:
            self.waiting = {n for n in self.waiting if _loads(s, n)}
        return before

    def _effects(self, s: ast.AST) -> list[ast.AST]:
        """What may have an effect, in the order of evaluation."""
        found: list[ast.AST] = []
        for node in _in_order(s):
            if (
                (isinstance(node, ast.Call) and not self._is_pure(node))
                or isinstance(node, ast.AugAssign | ast.Delete | ast.Import | ast.ImportFrom)
                or (
                    isinstance(node, ast.Attribute | ast.Subscript)
                    and not isinstance(node.ctx, ast.Load)
                )
            ):
                found.append(node)
        return found

    def _may_wait(self, path: list[ast.AST], effects: list[ast.AST]) -> bool:
        """Whether a variable, found at the end of the path, goes to one call, before any effect."""
        *outer, name = path
        order = {id(n): i for i, n in enumerate(_in_order(path[0]))}
        elsewhere: set[int] = set()  # in the outcome of a conditional expression that is not this one
        for parent, inner in itertools.pairwise(path):
            if isinstance(parent, ast.IfExp) and inner is not parent.test:
                other = parent.orelse if inner is parent.body else parent.body
                elsewhere |= {id(n) for n in ast.walk(other)}
        for effect in effects:
            if (
                id(effect) not in elsewhere
                and order[id(effect)] < order[id(name)]
                and not any(effect is o for o in outer)
            ):
                return False
        inner = name
        for parent in reversed(outer):
            if isinstance(parent, ast.IfExp) and inner is not parent.test:
                inner = parent
                continue
            if isinstance(parent, ast.Call):
                return _sole_argument(parent) is inner and not self._is_pure(parent)
            return isinstance(parent, ast.Return | ast.Assign) and self._holds(parent)
        return False

    def _holds(self, s: ast.AST) -> bool:
        """Whether what waits may go on waiting in what this statement sets or returns."""
        if isinstance(s, ast.Assign):
            target = s.targets[0]
            return len(s.targets) == 1 and isinstance(target, ast.Name) and target.id in self.locals
        return True

    # -- expressions

    def lazy(self, e: ast.expr) -> tuple[ast.expr, bool]:
        """The expression rewritten, and whether its value may be one that waits."""
        if isinstance(e, ast.Name) and e.id in self.waiting:
            return e, True
        if isinstance(e, ast.IfExp):
            e.test = self.eager(e.test)
            e.body, first = self.lazy(e.body)
            e.orelse, second = self.lazy(e.orelse)
            return e, first or second
        if isinstance(e, ast.Call) and not self._is_pure(e):
            return self._lazy_call(e), True
        return self.eager(e), False

    def _lazy_call(self, e: ast.Call) -> ast.expr:
        self.sites += 1
        sole = _sole_argument(e)
        if sole is not None:
            e.args = [self.lazy(sole)[0]]
        else:
            e.args = [self.eager(a) for a in e.args]
            for keyword in e.keywords:
                keyword.value = self.eager(keyword.value)
        function = e.func
        if (isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name)
                and function.value.id == self.this and function.attr in self.methods):  # fmt: skip
            function = self._call("method", [function.value, ast.Constant(function.attr)])
        else:
            function = self.eager(function)
        call = self._call("lazily", [function, *e.args])
        call.keywords = e.keywords
        return ast.copy_location(call, e)

    def eager(self, e: ast.expr) -> ast.expr:
        """The expression rewritten so that its value does not wait."""
        if isinstance(e, ast.Call) and not self._is_pure(e):
            sole = _sole_argument(e)
            if isinstance(sole, ast.Call | ast.IfExp) or (
                isinstance(sole, ast.Name) and sole.id in self.waiting
            ):
                return ast.copy_location(self._call("settle", [self._lazy_call(e)]), e)
        if isinstance(e, ast.IfExp) and any(_loads(e, name) for name in self.waiting):
            return ast.copy_location(self._call("settle", [self.lazy(e)[0]]), e)
        if isinstance(e, ast.Name) and e.id in self.waiting:
            return ast.copy_location(self._call("settle", [e]), e)
        if isinstance(e, SCOPES):
            return e
        self._eager_parts(e)
        if isinstance(e, ast.Call) and not e.keywords:  # of what was folded, they tell what it was
            target = self._resolve(e.func)
            asked = 2 if target is isinstance else 1 if target is type else -1
            if len(e.args) == asked:
                return ast.copy_location(self._call(("type", "isinstance")[asked - 1], e.args), e)
        return e

    def _eager_parts(self, node: ast.AST) -> None:
        for field, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                setattr(node, field, self.eager(value))
            elif isinstance(value, list):
                value[:] = [self.eager(v) if isinstance(v, ast.expr) else v for v in value]
                for v in value:
                    if isinstance(v, ast.keyword):
                        v.value = self.eager(v.value)

    def _call(self, helper: str, arguments: list[ast.expr]) -> ast.Call:
        return ast.Call(ast.Name(NAMES[helper], ast.Load()), arguments, [])

    def _resolve(self, e: ast.expr) -> object:
        """The global object that an expression of names and dots stands for, if there is one."""
        if isinstance(e, ast.Name) and e.id not in self.own:
            return self.namespace.get(e.id, getattr(builtins, e.id, None))
        if isinstance(e, ast.Attribute):
            owner = self._resolve(e.value)
            return getattr(owner, e.attr, None) if type(owner) is type(ast) else None
        return None

    def _is_pure(self, e: ast.Call) -> bool:
        if isinstance(e.func, ast.Attribute) and e.func.attr in PURE_METHODS:
            owner = e.func.value
            return not (isinstance(owner, ast.Name) and owner.id == self.this)
        target = self._resolve(e.func)
        return any(target is pure for pure in PURE)

    def _is_steady(self, e: ast.expr) -> bool:
        """Whether to iterate over this has no effect: over modules, numbers, lists of these."""
        if isinstance(e, ast.Call):
            pure = self._resolve(e.func) in (range, enumerate, zip, reversed, len)
            views = (isinstance(e.func, ast.Attribute) and not e.args
                     and e.func.attr in ("values", "items", "keys", "children", "named_children")
                     and self._is_steady(e.func.value))  # fmt: skip
            return views or (pure and all(map(self._is_steady, e.args)))
        if isinstance(e, ast.Subscript):
            return self._is_steady(e.value)
        if isinstance(e, ast.Attribute):
            return self._is_steady(e.value)
        if isinstance(e, ast.Tuple | ast.List):
            return all(map(self._is_steady, e.elts))
        return isinstance(e, ast.Constant) or (isinstance(e, ast.Name) and e.id == self.this)


def _sole_argument(e: ast.Call) -> ast.expr | None:
    if len(e.args) == 1 and not e.keywords and not isinstance(e.args[0], ast.Starred):
        return e.args[0]
    return None


def _paths(node: ast.AST, name: str, outer: tuple[ast.AST, ...] = ()) -> Iterator[list[ast.AST]]:
    """For each place where the variable is read: all that encloses it, and it."""
    path = (*outer, node)
    if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Store):
        yield list(path)
    if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name) and node.target.id == name:
        yield [*path, node.target]
    for field in ast.iter_child_nodes(node):
        yield from _paths(field, name, path)


def _are_alternatives(places: list[list[ast.AST]]) -> bool:
    """Whether two places are the two outcomes of one conditional expression."""
    if len(places) != 2:
        return False
    first, second = places
    shared = [a for a, b in zip(first, second, strict=False) if a is b]
    fork = shared[-1]
    return (
        isinstance(fork, ast.IfExp) and first[len(shared)] is not fork.test is not second[len(shared)]
    )
