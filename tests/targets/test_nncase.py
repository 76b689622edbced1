"""What is read of nncase's dump: calls of the main function only, without those that compute nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from archnet.errors import ArchNetError
from archnet.targets.nncase import Placement, read_placement

MAIN = """\
%main = fn(%x: f32[1,12,32]): // (f32[1,12,32]) -> f32[1,12,32]
{
  %func_1 = prim_wrapper(i8[12,32,1,1]): // (i8[12,32,1,1]) -> f32[1,2,12,12] {
    T.PrimFunc("TileMatMul_0", T.Buffer(ddrIf, i8, MemSpan(None, 384)@Input)).Body( // ()
      I.LoadImm(rd: x1, value: 16)
      %9 = Softmax(%8): // not of the main function
    )
  }
  %func_0 = prim_wrapper(f32[1,1,12,32]): // (f32[1,1,12,32]) -> i8[12,32,1,1] {
  }
  %0 = Reshape(%x, const(i32[4] : {1,1,12,32})): // f32[1,1,12,32]
  %1 = %func_0(%0): // i8[12,32,1,1]
  %2 = %func_1(%1): // f32[1,2,12,12]
  %3 = Softmax(%2, const(i64 : 3)): // f32[1,2,12,12]
  %4 = (%3, %3): // (f32[1,2,12,12], f32[1,2,12,12])
  %5 = Concat(Axis: 0, %4): // f32[2,2,12,12]
  %6 = Binary(BinaryOp.Min, %5, const(f32[12])): // f32[2,2,12,12]
  %7 = %func_1(%6): // f32[1,12,32]
}
"""

FUSIONS = """\
  %TileMatMulCase_0 = fusion<k230>(%var_1: i8[12,32,1,1]): // (i8[12,32,1,1]) -> f32[1,2,12,12]
  {
    %0 = GNNELoad(%var_1: i8[12,32,1,1]): // i8[12,32,1,1]
    %1 = GNNELoadW(const(u8[1,1,1,32])): // u8[1,1,1,32]
    %2 = GNNEConv2D(%0, %1): // i8[12,32,1,1]
    %3 = GNNETranspose(%2): // i8[1,32,12,1]
    %4 = GNNEStore(%3, const(i64[4] : {1L,1L,1L,1L})): // f32[1,2,12,12]
  }
  %0 = Reshape(%x, const(i32[4] : {1,1,12,32})): // f32[1,1,12,32]
"""

WORK = """\
Name, Mac, FLOPs, OnChipMemTraffic, OffChipMemTraffic, OffChipMemLWTraffic, OffChipLoadStoreCnt, Time
TileMatMul_0, 0, 4608, 14760, 1440, 360, 3, 0.0
TileLayerGroup_0, 1024, 12288, 17536, 768, 1504, 2, 0.0
"""


def dump(folder: Path, main: str = MAIN, work: str = WORK) -> Path:
    place = folder / "7_TargetDependentAfterQuantPass" / "10_FusionToTirPass"
    (place / "End").mkdir(parents=True)
    (place / "Start").mkdir()
    (place / "Start" / "main.il").write_text(FUSIONS)
    (place / "End" / "main.il").write_text(main)
    (place / "mac.csv").write_text(work)
    return folder


def test_pieces_on_the_kpu_and_operators_on_the_cpu_are_told_apart(tmp_path: Path) -> None:
    assert read_placement(dump(tmp_path)) == Placement(2, 3, ("Softmax", "Concat", "Min"), 16896)


def test_another_dump_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="does not show where operators run") as caught:
        read_placement(tmp_path)
    assert caught.value.fix == "archnet targets install kendryte"
    with pytest.raises(ArchNetError, match="cannot be understood: 'FLOPs'"):
        read_placement(dump(tmp_path, work=WORK.replace("FLOPs", "Flops")))
