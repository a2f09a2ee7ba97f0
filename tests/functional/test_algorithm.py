"""default_algorithm: the process's default, blocks, decorators, threads, tasks, compiled code."""

import asyncio
import contextlib
import sys
import threading

import pytest
import torch

import cnn_ext
from cnn_ext.functional import conv2d, current_algorithm


class Algorithms(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "cnn_ext":
            self.seen.append(args[-1])
        return function(*args, **(kwargs or {}))


def used_by(**keywords):
    with Algorithms() as algorithms:
        conv2d(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3), **keywords)
    return algorithms.seen


def test_the_algorithm_is_chosen_per_call_per_block_and_per_process():
    assert used_by() == ["auto"]
    assert used_by(algorithm="im2col") == ["im2col"]
    with cnn_ext.default_algorithm("im2col"):
        assert used_by() == ["im2col"]
        assert used_by(algorithm="implicit_gemm") == ["implicit_gemm"]
        with cnn_ext.default_algorithm("implicit_gemm"):
            assert used_by() == ["implicit_gemm"]
        assert used_by() == ["im2col"]
    assert used_by() == ["auto"]
    cnn_ext.default_algorithm("im2col")
    assert used_by() == ["im2col"]


def test_the_block_ends_with_an_error_too():
    with pytest.raises(KeyError), cnn_ext.default_algorithm("im2col"):
        raise KeyError
    assert used_by() == ["auto"]


def test_an_unknown_algorithm_is_refused():
    with pytest.raises(ValueError, match=r"name: expected one of .* got 'fft'"):
        cnn_ext.default_algorithm("fft")
    assert used_by() == ["auto"]
    with pytest.raises(RuntimeError, match=r'algorithm: expected .* got "fft"'):
        used_by(algorithm="fft")


def test_compiled_code_obeys_the_block():
    torch._dynamo.reset()
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph.print_readable(print_output=False))
        return graph

    compiled = torch.compile(conv2d, backend=backend, fullgraph=True)
    for name in ("auto", "im2col", "auto"):
        with cnn_ext.default_algorithm(name):
            compiled(torch.zeros(1, 1, 3, 3), torch.zeros(1, 1, 3, 3))
    assert ["'auto'" in graph for graph in graphs] == [True, False]  # the third is the first again
    assert ["'im2col'" in graph for graph in graphs] == [False, True]


def test_a_block_in_compiled_code_is_obeyed():
    torch._dynamo.reset()

    def several(input, weight):
        with cnn_ext.default_algorithm("im2col"):
            first = conv2d(input, weight)
            with cnn_ext.default_algorithm("direct"):
                second = conv2d(input, weight)
        return first, second, conv2d(input, weight)

    graphs = []

    def backend(graph, _inputs):
        graphs.append([node.args[-1] for node in graph.graph.nodes if node.op == "call_function"
                       and isinstance(node.args[-1], str)])  # fmt: skip
        return graph

    input = torch.zeros(1, 1, 3, 3)
    with Algorithms() as algorithms:
        several(input, input)
    assert algorithms.seen == ["im2col", "direct", "auto"]
    compiled = torch.compile(several, backend=backend, fullgraph=True)
    compiled(input, input)
    text = str(graphs)
    assert text.index("im2col") < text.index("direct") < text.index("auto")
    assert current_algorithm() == "auto"


def in_a_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_other_threads_see_the_processes_default_and_no_block():
    with cnn_ext.default_algorithm("im2col"):
        assert in_a_thread(used_by) == ["auto"]
    cnn_ext.default_algorithm("direct")
    assert in_a_thread(used_by) == ["direct"]
    with cnn_ext.default_algorithm("im2col"):
        assert in_a_thread(used_by) == ["direct"]
        cnn_ext.default_algorithm("winograd")  # for the process, while a block holds here
        assert used_by() == ["im2col"]
        assert in_a_thread(used_by) == ["winograd"]
    assert used_by() == ["winograd"]


def test_a_block_is_not_the_processes_default_even_before_it_is_entered():
    seen = []

    class Watched(cnn_ext.default_algorithm):
        def __enter__(self):
            seen.append(in_a_thread(current_algorithm))
            return super().__enter__()

    with Watched("im2col"):
        pass
    with contextlib.ExitStack() as stack:  # where that cannot be known, it is taken back on entry
        stack.enter_context(cnn_ext.default_algorithm("im2col"))
        assert in_a_thread(current_algorithm) == "auto"
    assert seen == ["auto"]
    assert current_algorithm() == "auto"


def test_threads_that_enter_blocks_at_once_leave_each_other_alone():
    wrong = []

    def enter_and_leave(name):
        for _ in range(300):
            with cnn_ext.default_algorithm(name):
                wrong.extend({current_algorithm()} - {name})
            wrong.extend({current_algorithm()} - {"auto"})

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=enter_and_leave, args=(name,))
                   for name in ("im2col", "direct", "implicit_gemm")]  # fmt: skip
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert current_algorithm() == "auto"


def test_one_object_is_used_again_and_in_itself():
    block = cnn_ext.default_algorithm("im2col")
    assert in_a_thread(current_algorithm) == "im2col"  # so far a plain call
    for _ in range(2):
        with block:
            with block, cnn_ext.default_algorithm("direct"), block:
                assert used_by() == ["im2col"]
            assert used_by() == ["im2col"]
        assert used_by() == ["auto"]


def test_a_function_is_decorated():
    @cnn_ext.default_algorithm("im2col")
    def inside(depth):
        """What it does."""
        return [*used_by(), *(inside(depth - 1) if depth else [])]

    assert current_algorithm() == "auto"
    assert inside(2) == ["im2col"] * 3
    assert (inside.__name__, inside.__doc__) == ("inside", "What it does.")
    assert in_a_thread(lambda: inside(0)) == ["im2col"]

    @cnn_ext.default_algorithm("im2col")
    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert used_by() == ["auto"]


def test_a_decorated_generator_has_the_block_in_its_steps_and_nowhere_else():
    @cnn_ext.default_algorithm("im2col")
    def steps():
        sent = yield current_algorithm()
        yield (sent, current_algorithm())

    generator = steps()
    assert next(generator) == "im2col"
    assert current_algorithm() == "auto"
    with cnn_ext.default_algorithm("direct"):
        assert generator.send(7) == (7, "im2col")
        assert current_algorithm() == "direct"


def test_blocks_that_generators_leave_in_another_order_end():
    def holds(name):
        with cnn_ext.default_algorithm(name):
            yield

    first, second = holds("im2col"), holds("direct")
    next(first)
    next(second)
    first.close()
    assert current_algorithm() == "direct"
    second.close()
    assert current_algorithm() == "auto"
    third = holds("im2col")
    in_a_thread(lambda: next(third))
    third.close()  # in a thread that never entered it
    assert current_algorithm() == "auto"


def test_each_task_has_its_own_blocks():
    @cnn_ext.default_algorithm("direct")
    async def decorated():
        await asyncio.sleep(0)
        return current_algorithm()

    async def task(name):
        seen = []
        with cnn_ext.default_algorithm(name):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(current_algorithm())
            seen.append(await decorated())
            seen.append(current_algorithm())
        return [*seen, current_algorithm()]

    async def main():
        return await asyncio.gather(task("im2col"), task("implicit_gemm"))

    for name, seen in zip(("im2col", "implicit_gemm"), asyncio.run(main()), strict=True):
        assert seen == [name] * 3 + ["direct", name, "auto"]


@pytest.mark.parametrize("kind", ["class", "asynchronous generator"])
def test_what_cannot_be_decorated_is_refused_and_nothing_is_left_behind(kind):
    class Kind:
        pass

    async def generator():
        yield

    with pytest.raises(TypeError, match=f"expected a function to decorate, got an? {kind}"):
        cnn_ext.default_algorithm("im2col")(Kind if kind == "class" else generator)
    assert used_by() == ["auto"]


def test_gradients_to_any_order_keep_the_algorithm_of_the_call():
    input = torch.randn(1, 1, 5, 5, requires_grad=True)
    weight = torch.randn(1, 1, 3, 3, requires_grad=True)
    with cnn_ext.default_algorithm("im2col"):
        output = conv2d(input, weight)
    with Algorithms() as algorithms, cnn_ext.default_algorithm("direct"):
        (gradient,) = torch.autograd.grad(output.square().sum(), input, create_graph=True)
        gradient.square().sum().backward()
    assert len(algorithms.seen) > 3
    assert set(algorithms.seen) == {"im2col"}


def test_plain_calls_do_not_pile_up():
    from cnn_ext.functional import default_algorithm

    settings = sys.modules["cnn_ext.functional.algorithm"]._settings
    for _ in range(5):
        default_algorithm("im2col")
        default_algorithm("auto")
    assert len(settings) <= 2


def test_the_variable_of_version_0_1_tells_the_algorithm_too():
    with cnn_ext.default_algorithm("im2col"):
        assert cnn_ext.functional._default_algorithm == "im2col"
    assert not hasattr(cnn_ext.functional, "_other")
