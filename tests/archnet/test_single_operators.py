"""The networks of one operator that compilers are asked about."""

from __future__ import annotations

import numpy as np
import pytest

from archnet.config import Bits
from archnet.operators import Op
from archnet.reference import OPERATORS as EXECUTED
from archnet.reference import execute
from archnet.single_network import SEQUENCE
from archnet.single_operators import OPERATORS, random_inputs, single_operator

CASES = [(op, case) for op, cases in OPERATORS.items() for case in cases]


def test_every_operator_of_the_integer_network_has_one() -> None:
    assert set(OPERATORS) == set(EXECUTED)


@pytest.mark.parametrize("bits", ["w8a8", "w4a8", "w2a4"])
@pytest.mark.parametrize(("op", "case"), CASES, ids=lambda value: str(value))
def test_it_is_one_node_that_the_reference_runs_to_many_values(op: Op, case: str, bits: str) -> None:
    graph = single_operator(op, case, Bits.parse(bits), 256)
    (node,) = graph.nodes
    assert node.op is op
    found = execute(graph, random_inputs(graph, 2, SEQUENCE - 1))["y"]
    assert len(np.unique(found)) > (1 if op is Op.ONE_HOT or bits == "w2a4" else 4)
