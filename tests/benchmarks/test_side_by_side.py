"""The parts of the comparison: calibration data, the table, the picture, children, the store."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from side_by_side.child import read_arrays, write_arrays
from side_by_side.frontier import frontier
from side_by_side.network_folder import Calibration, NetworkFolder, write_record
from side_by_side.processes import Child, ChildFailed
from side_by_side.recipe import parse_bits
from side_by_side.rows import Row
from side_by_side.store import RowFolder
from side_by_side.table import notes, ordered, table_of

ROWS = [
    Row("Tool", "w4a4", reason="it has no int4", cannot=True),
    Row(
        "Tool",
        "w8a8",
        score=79.0,
        size=25_000_000,
        seconds=12.4,
        cpu_seconds=31.0,
        peak_bytes=2_000_000_000,
        ms=2.0,
    ),
    Row("Arch-Net (onnxruntime)", "w8a8", score=80.5, size=22_500_000, ms=1.0, ours=True, scope="all"),
    Row("Other", "w8a8", score=20.0, size=23_000_000, simulated=True, scope="layers", settings="its own"),
    Row("float original", "w32a32", score=80.0, size=90_000_000, seconds=0.0, peak_bytes=1, ms=4.0),
    Row("Tool", "w4a32", score=78.0, size=14_000_000),
]


def calibration() -> Calibration:
    ids = np.array([[5, 6, 0, 0], [7, 8, 9, 0], [4, 0, 0, 0]])
    mask = (ids != 0).astype(np.int64)
    return Calibration({"ids": ids, "mask": mask}, {"ids": "mask", "mask": "mask"}, {})


def test_examples_come_without_padding_one_by_one_and_alike_in_batches() -> None:
    data = calibration()
    assert [batch["ids"].tolist() for batch in data.singles(2)] == [[[5, 6]], [[7, 8, 9]]]
    (batch,) = data.batches(3, 2)  # the third would be a batch of another shape
    assert batch["ids"].tolist() == [[5, 6, 0], [7, 8, 9]]
    assert batch["mask"].tolist() == [[1, 1, 0], [1, 1, 1]]


def test_a_network_folder_is_read_as_written(tmp_path: Path) -> None:
    hidden = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    decoder = Calibration({"states": hidden}, {"states": "mask"}, {"mask": np.array([[1, 1, 0], [1, 0, 0]])})
    write_record(tmp_path, "tiny", "abc", {"encoder": calibration(), "decoder": decoder})
    folder = NetworkFolder.open(tmp_path)
    assert [graph.name for graph in folder.graphs] == ["encoder", "decoder"]
    read = folder.graphs[1].calibration
    assert set(read.arrays) == {"states"}
    np.testing.assert_array_equal(read.singles(1)[0]["states"], hidden[:1, :2])


def test_arrays_cross_a_pipe() -> None:
    stream = io.BytesIO()
    sent = {
        "a": np.arange(6, dtype=np.int64).reshape(2, 3)[:, ::2],
        "b": np.float32([1.5]),
        "c": np.ones((0, 2)),
    }
    write_arrays(stream, {"graph": "model"}, sent)
    stream.seek(0)
    answer = read_arrays(stream)
    assert answer is not None
    record, arrays = answer
    assert record == {"graph": "model"}
    for name, values in sent.items():
        assert arrays[name].dtype == values.dtype
        np.testing.assert_array_equal(arrays[name], values)
    assert read_arrays(stream) is None


def test_rows_stand_by_width_ours_first_then_by_score() -> None:
    assert [(row.bits, row.tool) for row in ordered(ROWS)] == [
        ("w32a32", "float original"),
        ("w8a8", "Arch-Net (onnxruntime)"),
        ("w8a8", "Tool"),
        ("w8a8", "Other"),
        ("w4a4", "Tool"),
        ("w4a32", "Tool"),
    ]


def test_the_table_shows_differences_and_ratios_to_float() -> None:
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(table_of(ROWS, "title", "1 x 32 tokens"))
    lines = [line.replace("│", "|") for line in console.export_text().splitlines()]
    cells = {(c[1], c[2]): c[3:-1] for line in lines if len(c := [x.strip() for x in line.split("|")]) == 13}
    assert cells["w32a32", "float original"] == ["80.00", "", "90.0", "1.00", "0", "", "0", "4.00", "1.00"]
    assert cells["w8a8", "Tool"] == ["79.00", "-1.00", "25.0", "0.28", "12", "31", "2000", "2.00", "2.00"]
    assert cells["w8a8", "Arch-Net (onnxruntime)"][:4] == ["80.50", "+0.50", "22.5", "0.25"]
    assert cells["w8a8", "Other"][-2:] == ["simulated", ""]
    assert cells["w4a4", "Tool"] == ["cannot", "", "", "", "", "", "", "", ""]
    assert notes(ROWS)[0] == "Tool, w4a4: it has no int4"
    assert "Other quantizes layers; simulated in float (its own)" in notes(ROWS)


def test_the_picture_has_a_mark_for_every_score() -> None:
    tree = ElementTree.fromstring(frontier(ROWS, "<model>", "Spearman", "1 x 32 tokens"))
    space = "{http://www.w3.org/2000/svg}"
    hovers = [title.text for group in tree.iter(f"{space}g") for title in group.findall(f"{space}title")]
    assert len(hovers) == 5 + 3  # five with bytes, three of them with a time
    assert "Arch-Net (onnxruntime), w8a8: 80.50, 22.5" in hovers
    texts = [text.text for text in tree.iter(f"{space}text")]
    assert "W8A8" in texts
    assert len(list(tree.iter(f"{space}path"))) == 1  # 60 points below: an arrow at the edge
    assert frontier([ROWS[0]], "m", "s", "") == ""


def test_a_row_folder_depends_on_all_that_decides_it(tmp_path: Path) -> None:
    one = RowFolder.of(tmp_path, "A tool, so", "w8a8", versions={"a": "1"})
    assert one.path.name.startswith("a-tool-so-w8a8-")
    assert one != RowFolder.of(tmp_path, "A tool, so", "w8a8", versions={"a": "2"})
    one.begin()
    (one.network / "left.onnx").write_text("of a killed run")
    one.begin()
    assert not list(one.network.iterdir())
    assert one.read("made") is None
    one.write("made", {"seconds": 1.5})
    assert one.read("made") == {"seconds": 1.5}


@pytest.mark.parametrize(
    ("code", "seconds", "message"),
    [
        ("import os; os._exit(3)", 20, "its process ended with 3"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 20, "its process ended with SIGSEGV"),
        ("import time; time.sleep(60)", 0.5, "stopped after its time limit of 0.5 s"),
    ],
    ids=["ends", "crashes", "hangs"],
)
def test_a_child_that_goes_wrong_says_how(code: str, seconds: float, message: str, tmp_path: Path) -> None:
    # An interpreter that does something else than what it is asked for.
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexec python3 -c '{code}'\n")
    python.chmod(0o755)
    with (
        Child(python, [], threads=1, seconds=seconds, log=tmp_path / "log") as child,
        pytest.raises(ChildFailed, match=message),
    ):
        child.answer({"graph": "model"})


def test_bits() -> None:
    assert parse_bits("w4a8") == (4, 8)
    assert parse_bits("w2a32") == (2, 32)
