"""A recorded graph on paper: its longest path runs straight down, what is beside it in columns of its own."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from yolov12_plugin.paper.graph import ARITHMETIC, Graph

Point = tuple[float, float]

# Inches
HEIGHT = 0.3  # of a box
RADIUS = 0.13  # of a circle
SAID, TURN, HEAD = 0.15, 0.1, 0.11  # between rows: what is said of tensors, turns of their lines, heads of the arrows
ROW = HEIGHT + SAID + TURN + HEAD
LANE = 0.22  # between lines
ASIDE = 0.06  # between lines that leave a box side by side


@dataclass(frozen=True)
class Box:
    left: float
    bottom: float
    right: float
    top: float
    is_round: bool

    @property
    def centre(self) -> Point:
        return (self.left + self.right) / 2, (self.bottom + self.top) / 2


@dataclass(frozen=True)
class Placement:
    """Boxes by node, and by edge the points of its line from source to target; y is 0 at the top and falls.

    `labels` has, of the edges that carry one tensor and say the same of it, one, with the point right of which there
    is room to say it; `forks` are the points at which a tensor's lines part. No line runs through a box, and lines
    share a stretch only where they carry one tensor or come to one node.
    """

    boxes: list[Box]
    lines: list[list[Point]]
    labels: dict[int, Point]
    forks: list[Point]
    left: float
    right: float
    bottom: float


def place(graph: Graph, width: float, said: Sequence[tuple[str, float]]) -> Placement:
    """Places for boxes of a width, and for edges with what is `said` of their tensors, as text and its width."""
    columns = Columns(graph)
    of_node, of_edge = columns.of_node, columns.of_edge
    tops = [-row * ROW for row in columns.row]

    carried: dict[tuple[int, int, str], list[int]] = defaultdict(list)
    for i, edge in enumerate(graph.edges):
        carried[edge.source, edge.output, said[i][0]].append(i)
    named = [min(edges, key=columns.leaves_askew) for edges in carried.values()]

    left: dict[int, float] = defaultdict(lambda: LANE / 2)
    right: dict[int, float] = defaultdict(lambda: LANE / 2)
    for column in of_node.values():
        left[column] = right[column] = (width + LANE) / 2
    for i in named:
        right[of_edge[i]] = max(right[of_edge[i]], said[i][1] + LANE / 2)
    first, last = min(of_edge.values()), max(of_edge.values())
    x = {first: 0.0}
    for column in range(first, last):
        x[column + 1] = x[column] + right[column] + left[column + 1]

    boxes = []
    for node, top in enumerate(tops):
        if columns.round[node]:
            middle, y = x[of_node[node]], top - HEIGHT / 2
            boxes.append(Box(middle - RADIUS, y - RADIUS, middle + RADIUS, y + RADIUS, True))
        else:
            half = {column: width / 2 if column in of_node.values() else LANE / 3 for column in columns.reach[node]}
            ends = min(x[column] - half[column] for column in half), max(x[column] + half[column] for column in half)
            boxes.append(Box(ends[0], top - HEIGHT, ends[1], top, False))

    lines, labels, forks = [], {}, []
    for i, edge in enumerate(graph.edges):
        source, target = boxes[edge.source], boxes[edge.target]
        tensor = columns.tensor(i)
        start = x[columns.exit[tensor]] + ASIDE * columns.aside[tensor]
        own, end = x[of_edge[i]], x[of_node[edge.target]]
        line = [(start, source.bottom)]
        if columns.leaves_askew(i):
            y = tops[edge.source] - HEIGHT - SAID - TURN * columns.turn(columns.row[edge.source], tensor)
            line += [(start, y), (own, y)]
            if sum(columns.tensor(other) == tensor for other in range(len(graph.edges))) > 1:
                forks.append((start, y))
        if i in columns.astray:
            y = tops[edge.target] + HEAD + TURN - TURN * columns.turn(columns.row[edge.target] - 1, (edge.target, -1))
            line += [(own, y), (end, y), (end, target.top)]
        elif target.is_round and own != end:
            line += [(own, target.centre[1]), (target.right if own > end else target.left, target.centre[1])]
        else:
            line.append((own, target.top))
        lines.append(line)
        if i in named:
            below = SAID + TURN + HEAD / 2 if columns.leaves_askew(i) else SAID / 2
            labels[i] = own, tops[edge.source] - HEIGHT - below
    return Placement(boxes, lines, labels, forks, x[first] - left[first], x[last] + right[last], boxes[-1].bottom)


def is_round(graph: Graph, node: int) -> bool:
    """Whether it is a sum or a product of tensors: a circle with its sign."""
    return graph.nodes[node].op in ARITHMETIC.values() and not graph.nodes[node].constants


class Columns:
    """A row for each node, and columns: 0 for the longest path, and for all other chains the nearest that is free.

    A chain is a run of edges through nodes that have no place yet, between two that have. It leaves the source by the
    column `exit` of the tensor, has a turn below it where its own column is another, and comes down on the target,
    which is as wide as its chains are apart (`reach`). To a circle it comes from the side; where the way there is not
    free, by a turn above the target (`astray`).
    """

    def __init__(self, graph: Graph):
        self.edges = graph.edges
        self.row = [0] * len(graph.nodes)
        for edge in self.edges:  # in the order of their targets
            self.row[edge.target] = max(self.row[edge.target], self.row[edge.source] + 1)
        self.outputs = [len({edge.output for edge in self.edges if edge.source == n}) for n in range(len(graph.nodes))]
        self.round = [is_round(graph, node) for node in range(len(graph.nodes))]
        self.of_node: dict[int, int] = {}
        self.of_edge: dict[int, int] = {}
        self.exit: dict[tuple[int, int], int] = {}
        self.reach: dict[int, set[int]] = defaultdict(set)
        self.aside: dict[tuple[int, int], int] = defaultdict(int)
        self.astray: set[int] = set()
        self.cells: dict[tuple[int, int], int] = {}  # column and level, which is even in rows -> node, or -1 for a line

        longest, *chains = self.chains()
        for node in 0, len(graph.nodes) - 1:
            self.put(node, 0)
        self.settle(longest, 0)
        chains.sort(key=lambda chain: self.levels(chain)[1] - self.levels(chain)[0])
        beside = [k for n in range(1, len(self.edges) + 1) for k in (n, -n)]
        while chains:
            chain = next(chain for chain in chains if {*self.ends(chain)} <= {*self.of_node})
            chains.remove(chain)
            self.settle(chain, min(beside, key=partial(self.cost, chain)))

        self.turns: dict[int, list[tuple[int, int]]] = defaultdict(list)  # of tensors, then to targets, as (node, -1)
        askew = [(self.row[edge.source], self.tensor(i)) for i, edge in enumerate(self.edges) if self.leaves_askew(i)]
        astray = [(self.row[self.edges[i].target] - 1, (self.edges[i].target, -1)) for i in sorted(self.astray)]
        for row, turn in dict.fromkeys(askew + astray):
            self.turns[row].append(turn)

    def tensor(self, edge: int) -> tuple[int, int]:
        return self.edges[edge].source, self.edges[edge].output

    def leaves_askew(self, edge: int) -> bool:
        """Whether an edge turns into its column below the source."""
        return self.of_edge[edge] != self.exit[self.tensor(edge)]

    def turn(self, row: int, who: tuple[int, int]) -> float:
        """How far down among the turns below a row that of a tensor, or of a target, is: between 0 and 1."""
        return (self.turns[row].index(who) + 0.5) / len(self.turns[row])

    def ends(self, chain: list[int]) -> tuple[int, int]:
        return self.edges[chain[0]].source, self.edges[chain[-1]].target

    def levels(self, chain: list[int]) -> tuple[int, int]:
        source, target = self.ends(chain)
        return 2 * self.row[source], 2 * self.row[target]

    def chains(self) -> list[list[int]]:
        """All edges: those of the longest path, then those through the nodes that are left, then each of the others."""
        edges, row = self.edges, self.row
        end = len(row) - 1
        seen = {0}

        def back(edge: int) -> list[int]:
            chain = [edge]
            while (node := edges[chain[0]].source) not in seen:
                seen.add(node)
                into = (i for i, e in enumerate(edges) if e.target == node)
                chain.insert(0, max(into, key=lambda i: row[edges[i].source]))
            return chain

        found = [back(max((i for i, e in enumerate(edges) if e.target == end), key=lambda i: row[edges[i].source]))]
        seen.add(end)
        for node in sorted(range(end), key=lambda node: -row[node]):
            if node not in seen:
                out = (i for i, e in enumerate(edges) if e.source == node)
                found.append(back(min(out, key=lambda i: row[edges[i].target])))
        taken = {i for chain in found for i in chain}
        return found + [[i] for i in range(len(edges)) if i not in taken]

    def put(self, node: int, column: int) -> None:
        self.of_node[node] = column
        self.reach[node].add(column)
        self.cells[column, 2 * self.row[node]] = node

    def way(self, node: int, column: int) -> list[tuple[int, int]]:
        """Cells of the node's row from beside it to a column."""
        own = self.of_node[node]
        step = 1 if column > own else -1
        return [(k, 2 * self.row[node]) for k in range(own + step, column + step, step)] if column != own else []

    def is_free(self, node: int, column: int) -> bool:
        return all(self.cells.get(cell, node) == node for cell in self.way(node, column))

    def parts(self, chain: list[int]) -> bool:
        """Whether its tensor leaves a node beside others, and first."""
        return self.outputs[self.edges[chain[0]].source] > 1 and self.tensor(chain[0]) not in self.exit

    def cost(self, chain: list[int], column: int) -> float:
        """Of a column for a chain: its length sideways, the lines that it crosses, and what it cannot have."""
        source, target = self.ends(chain)
        top, bottom = self.levels(chain)
        if any((column, level) in self.cells for level in range(top + 1, bottom)):
            return float("inf")
        exit = self.exit.get(self.tensor(chain[0]), self.of_node[source])
        between = range(min(exit, column) + 1, max(exit, column))
        crossed = sum((k, top + 1) in self.cells for k in between)
        own = self.of_node[target]
        opposite = any((k - own) * (column - own) < 0 for k in self.reach[target]) and not self.round[target]
        hindered = not self.is_free(target, column) + (self.parts(chain) and not self.is_free(source, column))
        return abs(column - exit) + abs(column - own) + 3 * crossed + 100 * opposite + 1000 * hindered

    def settle(self, chain: list[int], column: int) -> None:
        source, target = self.ends(chain)
        top, bottom = self.levels(chain)
        parts = self.parts(chain) and self.is_free(source, column)
        if self.tensor(chain[0]) not in self.exit:
            self.exit[self.tensor(chain[0])] = column if parts else self.of_node[source]
            others = [
                tensor for tensor, exit in self.exit.items() if tensor[0] == source and exit == self.of_node[source]
            ]
            self.aside[self.tensor(chain[0])] = 0 if parts else len(others) - 1
        if self.is_free(target, column):
            self.extend(target, column)
        else:
            self.astray.add(chain[-1])
        if parts:
            self.extend(source, column)
        for level in range(top + 1, bottom):
            self.cells[column, level] = -1
        for edge in chain:
            self.of_edge[edge] = column
        for edge in chain[1:]:
            self.put(self.edges[edge].source, column)
            self.exit[self.tensor(edge)] = column

    def extend(self, node: int, column: int) -> None:
        self.reach[node].add(column)
        self.cells |= dict.fromkeys(self.way(node, column), node)
