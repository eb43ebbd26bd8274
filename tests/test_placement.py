"""Places of a graph's parts on paper."""

import itertools

from hypothesis import example, given, settings
from hypothesis import strategies as st

from yolov12_plugin.paper.graph import INPUT, OUTPUT, Edge, Graph, Node
from yolov12_plugin.paper.placement import place

SHAPE = (1, 8, 4, 4)
SAID, WIDTH = ("64", 0.2), 1.0
NEAR = 1e-6


def graph_of(ops, edges):
    """A graph of (source, target, output of the source)."""
    return Graph([Node(op) for op in ops], [Edge(*edge, SHAPE, SHAPE) for edge in edges])


@st.composite
def graphs(draw):
    """Up to ten nodes, each on the way from the input to the output, of up to four operands each."""
    count = draw(st.integers(2, 10))
    ops = [INPUT, *draw(st.lists(st.sampled_from(["+", "×", "Conv", "split"]), min_size=count - 2, max_size=count - 2))]
    edges = []
    for target in range(1, count):
        for source in draw(st.lists(st.integers(0, target - 1), min_size=1, max_size=4)):
            edges.append((source, target, draw(st.integers(0, 2)) if ops[source] == "split" else 0))
    needed = {count - 1}
    for source, target, _ in reversed(edges):
        needed |= {source} if target in needed else set()
    number = {old: new for new, old in enumerate(sorted(needed))}
    kept = [(number[source], number[target], output) for source, target, output in edges if target in needed]
    return graph_of([[*ops, OUTPUT][old] for old in number], kept)


def stretches(line):
    """Straight parts of a line, as (left, bottom, right, top)."""
    return [(min(a, c), min(b, d), max(a, c), max(b, d)) for (a, b), (c, d) in itertools.pairwise(line)]


def overlap(one, other):
    """How wide and how high the common part of two rectangles is; negative where they are apart."""
    return (
        min(one[2], other[2]) - max(one[0], other[0]),
        min(one[3], other[3]) - max(one[1], other[1]),
    )


DENSE = graph_of(
    [INPUT, "a", "b", "c", "split", "d", "e", OUTPUT],
    [
        *[(0, 1, 0)] * 3,
        *[(0, 2, 0), (0, 2, 0), (1, 2, 0), (1, 2, 0)],
        *[(0, 3, 0), (2, 3, 0), (2, 3, 0), (1, 3, 0)],
        *[(1, 4, 0), (0, 4, 0), (0, 4, 0), (2, 4, 0)],
        *[(1, 5, 0), (4, 5, 1), (2, 5, 0), (0, 5, 0)],
        *[(2, 6, 0), (3, 6, 0), (0, 6, 0), (2, 6, 0)],
        *[(3, 7, 0), (5, 7, 0), (0, 7, 0), (6, 7, 0)],
    ],
)


@settings(max_examples=300, deadline=None)
@given(graphs())
@example(DENSE)
def test_any_graph_can_be_read(graph):
    at = place(graph, WIDTH, [SAID] * len(graph.edges))
    boxes = [(box.left, box.bottom, box.right, box.top) for box in at.boxes]
    assert len(boxes) == len(graph.nodes) and len(at.lines) == len(graph.edges)
    for one, other in itertools.combinations(boxes, 2):
        assert min(overlap(one, other)) < 0
    for edge, line in zip(graph.edges, at.lines):
        source, target = at.boxes[edge.source], at.boxes[edge.target]
        assert line[0][1] == source.bottom and source.left < line[0][0] < source.right
        x, y = line[-1]
        assert (y == target.top and target.left < x < target.right) or x in (target.left, target.right)
        for stretch in stretches(line):
            assert stretch[0] == stretch[2] or stretch[1] == stretch[3]
            assert all(min(overlap(stretch, box)) < NEAR for box in boxes)
            assert at.left <= stretch[0] and stretch[2] <= at.right
    for (edge, line), (other, beside) in itertools.combinations(zip(graph.edges, at.lines), 2):
        if (edge.source, edge.output) != (other.source, other.output) and edge.target != other.target:
            for pair in itertools.product(stretches(line), stretches(beside)):
                wide, high = overlap(*pair)
                assert min(wide, high) < -NEAR or max(wide, high) < NEAR  # apart, or they cross


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_there_is_room_to_name_each_tensor_once(graph):
    at = place(graph, WIDTH, [SAID] * len(graph.edges))
    named = [(graph.edges[i].source, graph.edges[i].output) for i in at.labels]
    assert sorted(named) == sorted({(edge.source, edge.output) for edge in graph.edges})
    rooms = [(x + 0.02, y - 0.04, x + 0.02 + SAID[1], y + 0.04) for x, y in at.labels.values()]
    boxes = [(box.left, box.bottom, box.right, box.top) for box in at.boxes]
    for one, other in itertools.combinations(rooms, 2):
        assert min(overlap(one, other)) < 0
    for room in rooms:
        assert all(min(overlap(room, box)) < 0 for box in boxes) and room[2] < at.right


def test_the_longest_path_runs_straight_down():
    graph = graph_of([INPUT, "a", "b", "+", OUTPUT], [(0, 1, 0), (1, 2, 0), (0, 3, 0), (2, 3, 0), (3, 4, 0)])
    at = place(graph, WIDTH, [SAID] * 5)
    assert len({box.centre[0] for box in at.boxes}) == 1
    assert [len(line) for line in at.lines] == [2, 2, 5, 2, 2]
    assert at.forks == [at.lines[2][1]]
    sideways = at.lines[2][-1]
    assert sideways == (at.boxes[3].right, at.boxes[3].centre[1])


def test_what_is_concatenated_comes_in_side_by_side():
    edges = [(0, 1, 0), (1, 2, 0), (2, 3, 0), (3, 4, 0), (2, 4, 0), (1, 4, 0), (0, 4, 0), (4, 5, 0)]
    at = place(graph_of([INPUT, "a", "b", "c", "concat", OUTPUT], edges), WIDTH, [SAID] * 8)
    ends = [line[-1] for line in at.lines[3:7]]
    assert [x for x, _ in ends] == sorted({x for x, _ in ends}) and {y for _, y in ends} == {at.boxes[4].top}
    assert at.boxes[4].right - at.boxes[4].left > WIDTH


def test_two_wordings_of_one_tensor_are_both_said():
    edges = [(0, 1, 0), (0, 2, 0), (1, 2, 0), (2, 3, 0)]
    graph = graph_of([INPUT, "a", "concat", OUTPUT], edges)
    assert [*place(graph, WIDTH, [SAID] * 4).labels] == [0, 2, 3]
    assert [*place(graph, WIDTH, [SAID, ("4×2", 0.2), SAID, SAID]).labels] == [0, 1, 2, 3]
