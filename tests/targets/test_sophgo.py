"""Reading what TPU-MLIR says of a compiled network."""

from __future__ import annotations

import pytest

from archnet.targets.sophgo import Placement, read_placement

MLIR = """\
module @network attributes {module.chip = "bm1684x"} {
    func.func @main(%arg0: tensor<1x16x32xsi8> loc(unknown)) -> tensor<1x16x32xsi8> {
      %0 = "top.Input"(%arg0) {do_preprocess = false} : (tensor<1x16x32xsi8>) -> tensor<1x16x32xsi8>
      %1 = call @subfunc_0(%0) : (tensor<1x16x32xsi8>) -> tensor<1x16x32xsi8>
    }
    func.func @subfunc_0(%arg0: tensor<1x16x32xsi8>) -> tensor<1x16x32xsi8> attributes {id = 0 : i64, \
mode = #tpu<run_mode TPU_STATIC>, next_index = array<i32: -1>} {
      %0 = "top.Weight"() : () -> tensor<32x32xsi8>
      %1 = "tpu.Group"(%arg0) ({
        %2 = "tpu.Load"(%arg0) {lmem_type = 1 : i64} : (tensor<1x16x32xsi8>) -> tensor<1x16x32xsi8>
        %3 = "tpu.MatMul"(%2, %0) {do_relu = false} : (tensor<1x16x32xsi8>) -> tensor<1x16x32xi32>
        %4 = "tpu.BinaryConstShift"(%3) {shift = -16 : si32} : (tensor<1x16x32xi32>) -> tensor<1x16x32xsi8>
        %5 = "tpu.Softmax"(%4) {axis = 2 : si32} : (tensor<1x16x32xf32>) -> tensor<1x16x32xf32>
        "tpu.Yield"(%5) : (tensor<1x16x32xsi8>) -> ()
      })
    }
"""
CPU = """\
    func.func @subfunc_1(%arg0: tensor<1x16x32xsi8>) attributes {id = 1 : i64, mode = #tpu<run_mode CPU>} {
      %0 = "tpu.GenericCpu"(%arg0) {cpu_op_name = "argsort"} : (tensor<1x16x32xsi8>) -> tensor<1x16x32xsi8>
    }
"""
COMMANDS = "MatMul_3|MM2|s:1|e:9|t:9\nAPI_END total_cycle:2238|b:4|g:5\nTCYC : 2238\n"


def test_operators_their_places_and_cycles_are_read() -> None:
    assert read_placement(MLIR, COMMANDS) == Placement(3, (), ("Softmax",), 2238)
    assert read_placement(MLIR + CPU, "") == Placement(3, ("GenericCpu",), ("Softmax",), None)


@pytest.mark.parametrize("text", ["", "module @network {\n}\n", MLIR.replace("run_mode", "mode")])
def test_another_text_is_not_understood(text: str) -> None:
    with pytest.raises(ValueError, match="it names no part of the network"):
        read_placement(text, COMMANDS)
