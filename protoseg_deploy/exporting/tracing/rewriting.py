"""The optimiser of the exporter, without its slowest step.

It compares every node of a graph with the last nodes of every pattern that it rewrites. For a pattern that ends in
several nodes it lists all nodes of the graph first, whatever the node at hand: in a graph of some thousand nodes that
takes longer than everything else.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from onnxscript.rewriter import MatchResult
from onnxscript.rewriter.pattern import SimplePatternMatcher


@contextmanager
def quick_mismatches() -> Iterator[None]:
    """Within the block, a node that cannot be the first of several is no match at once."""
    matcher: Any = SimplePatternMatcher
    match = matcher.match

    def quick_match(self: Any, model: Any, graph_or_function: Any, node: Any, **options: Any) -> Any:
        ends = self.pattern.output_nodes
        if len(ends) > 1 and not ends[0].matches(node, MatchResult()):
            return MatchResult().fail("the first node differs")
        return match(self, model, graph_or_function, node, **options)

    matcher.match = quick_match
    try:
        yield
    finally:
        matcher.match = match
