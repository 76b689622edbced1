from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from archnet.errors import ArchNetError
from archnet.report import SECTIONS, write_report
from archnet.results import BackendScore, BlockAgreement, CensusRow, LatencyRow, ValidationResult
from tests.report import fixture_build
from tests.report.fixture_build import make_build

ANCHORS = [anchor for anchor, _ in SECTIONS if anchor != "frontier"]
"""Of a page without a comparison."""

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a page is made of; raises on tags that are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += re.sub(r"[ \n]+", " ", data)


def page_of(folder: Path) -> tuple[str, Page]:
    html = write_report(folder).read_text(encoding="utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    return page_of(make_build(tmp_path_factory.mktemp("build") / "full"))


def test_the_page_loads_nothing(full: tuple[str, Page]) -> None:
    html, page = full
    assert not {"script", "link", "img", "iframe", "object", "embed"} & {tag for tag, _ in page.tags}
    links = [attributes["href"] for _, attributes in page.tags if attributes.get("href")]
    assert links == [f"#{anchor}" for anchor in ANCHORS]
    assert not re.search(r"https?:|url\(|@import|src=", html)
    assert "default-src 'none'" in html


def test_every_link_has_its_section(full: tuple[str, Page]) -> None:
    ids = [attributes["id"] for _, attributes in full[1].tags if attributes.get("id")]
    assert ids == ANCHORS


def test_every_plot_is_xml_with_a_title_and_a_description(full: tuple[str, Page]) -> None:
    drawings = re.findall(r"<svg.*?</svg>", full[0], re.DOTALL)
    assert len(drawings) == 10
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.attrib["role"] == "img"
        assert [child.tag for child in root[:2]] == ["title", "desc"]
        assert all(child.text for child in root[:2])


def test_light_dark_narrow_and_print_are_styled(full: tuple[str, Page]) -> None:
    for query in ("prefers-color-scheme: dark", "max-width: 640px", "@media print"):
        assert query in full[0]


def test_headline(full: tuple[str, Page]) -> None:
    text = full[1].text
    assert (
        "80.11 against 79.59 for the float model (+0.52 points), 22.9\u202fMB instead of 90.4\u202fMB, "
        "2.6 to 3.0× as fast." in text
    )
    assert "95% range of the change +0.08 to +1.13" in text
    assert "passed: no backend drops by more than the 0.30 points allowed" in text
    assert "13\xa0LayerNorm, 6\xa0GELU, 3\xa0Gather" in text


def test_what_is_not_an_integer_operator_of_the_target_is_named(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b")
    plan = json.loads((folder / "plan.json").read_text())
    plan["decisions"][0] |= {"action": "host", "becomes": "table look-up", "reason": "--embedding host"}
    (folder / "plan.json").write_text(json.dumps(plan))
    text = page_of(folder)[1].text
    assert "Not done by integer operators of the target:" in text
    assert "1 Gather left to the host (table look-up): --embedding host" in text
    assert "6 Softmax computed by ONNX Runtime in its own way: it has no integer softmax" in text


def test_without_any_fallback_the_page_says_so(tmp_path: Path) -> None:
    value = {**fixture_build.validation().to_json(), "emulated": []}
    text = page_of(make_build(tmp_path / "b", validation=value))[1].text
    assert "Every operator runs in integers on the target" in text
    assert "Not done by integer operators" not in text


def test_what_chips_compilers_said_is_there_once_it_is_known(tmp_path: Path, full: tuple[str, Page]) -> None:
    assert "Compiled for chips" not in full[1].text
    folder = make_build(tmp_path / "b")
    metrics = json.loads((folder / "metrics.json").read_text())
    record = {
        "target": "ethos-u55-128", "tool": "ethos-u-vela 5.2.0", "native_operators": 93,
        "fallback_operators": 0,
        "cycles": 95688, "milliseconds": 0.191, "sram_bytes": 9360, "binary_bytes": 59296,
    }  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps({**metrics, "compiled": {"ethos-u55-128": record}}))
    text = page_of(folder)[1].text.replace("\u202f", " ")
    assert "Compiled for chips" in text
    for word in ("ethos-u55-128", "ethos-u-vela 5.2.0", "93", "9.36 kB", "59.3 kB"):
        assert word in text


def test_originals_on_chips_stand_before_what_they_became(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b")
    metrics = json.loads((folder / "metrics.json").read_text())
    record = {
        "target": "k230", "tool": "nncase 2.11.0", "native_operators": 156, "fallback_operators": 0,
        "fallbacks": [], "float_operators": [], "configuration": "119 pieces of work", "sequence": 32,
        "cycles": None, "milliseconds": None, "sram_bytes": None, "binary_bytes": 2048,
    }  # fmt: skip
    before = {
        **record,
        "native_operators": 61,
        "fallback_operators": 14,
        "fallbacks": ["13 LayerNorm", "1 Gather"],
    }
    before["float_operators"] = ["6 Softmax"]
    metrics["compiled"] = {"k230": record}
    metrics["originals"] = {
        "k230": {"target": "k230", "refused": "", "compiled": before},
        "iree": {"target": "iree", "refused": "it took longer than 9 s <here>", "compiled": None},
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    text = page_of(folder)[1].text.replace("\u202f", " ")
    for words in (
        "elsewhere: 13 LayerNorm, 1 Gather",
        "in float: 6 Softmax",
        "refused: it took longer than 9 s <here>",
        "nncase 2.11.0, 32 tokens, 119 pieces of work",
    ):
        assert words in text
    table = text[text.index("Compiled for chips") :]
    assert table.index("61") < table.index("156")


def test_integers_are_compared_by_backend_and_scope(full: tuple[str, Page]) -> None:
    text = full[1].text
    assert "18 of 24 tensors are equal; 0.0065\u202f% of the elements differ, by at most 1 LSB" in text
    assert "0 LSB: all 37,748,736 elements of 24 tensors are equal" in text


@pytest.mark.parametrize(
    "words",
    [
        "Nothing has been measured yet.",
        "validate {} --task sts --data FILE_OR_DIR",
        "validate {} --backend reference,onnxruntime,tvm",
        "export {} --format onnx",
        "bench {}",
        "The operator census is written by the conversion",
        "The agreement of each block is written by the conversion",
        "The plan is written by the conversion",
        "The course of the training is written by the conversion",
    ],
)
def test_a_missing_section_says_how_to_get_it(tmp_path: Path, words: str) -> None:
    folder = make_build(tmp_path / "my build", parts=())
    assert words.format(f"'{folder}'") in page_of(folder)[1].text


def test_only_agreement(tmp_path: Path) -> None:
    scores = (BackendScore("tvm", cosine=0.9911, sqnr_db=17.5),)
    result = ValidationResult(None, "", "", 0, 8, BackendScore("float"), scores)
    text = page_of(make_build(tmp_path / "b", parts=(), validation=result))[1].text
    assert "Output cosine 0.9911 with the float model." in text
    assert "The task score has not been measured." in text


def test_a_drop_above_the_allowed_fails_and_names_the_backend(tmp_path: Path) -> None:
    result = fixture_build.validation(max_drop=0.3, drop=0.71)
    html, page = page_of(make_build(tmp_path / "b", validation=result))
    assert "failed: reference drops by 0.72 points, 0.30 were allowed" in page.text
    assert "(−0.71 points)" in page.text
    assert 'class="card bad"' in html


def test_everything_from_files_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert('&')</script>"
    folder = make_build(
        tmp_path / "b",
        census_before={evil: 3},
        blocks=[BlockAgreement(evil, 0.9, 5.0)],
        seconds={evil: 3.0},
    )
    for name in ("plan.json", "manifest.json", "metrics.json"):
        path = folder / name
        path.write_text(path.read_text().replace("made-up", evil).replace("sick, sts12", evil))
    html, page = page_of(folder)
    assert "script" not in {tag for tag, _ in page.tags}
    assert html.count("<script") == 0
    assert page.text.count("alert('&')") >= 5


def test_the_command_and_versions_are_there(full: tuple[str, Page]) -> None:
    text = full[1].text
    assert (
        "archnet convert MODEL --data FILE_OR_DIR --target archnet --bits w8a8 \\ "
        "--preset balanced --seq-len 128 --seed 0 --embedding one-hot \\ --attention softmax --out DIR"
        in text
    )
    assert "torch 2.13.0" in text
    assert "ab" * 32 in text
    assert "input_ids (dtype int64, shape [batch, sequence])" in text
    assert "13 min 38 s" in text


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("norms", "corrected", "Form of normscorrected"),
        ("head_width", "8,16", "Features of each head of attention8,16"),
        ("ffn_width", 512, "Features of each feed-forward part512"),
    ],
)
def test_what_was_chosen_beside_the_defaults_is_in_the_command(
    name: str, value: str | int, shown: str, tmp_path: Path
) -> None:
    folder = make_build(tmp_path / "b")
    record = json.loads((folder / "settings.json").read_text())
    record["settings"][name] = value
    (folder / "settings.json").write_text(json.dumps(record))
    text = page_of(folder)[1].text
    assert f"--{name.replace('_', '-')} {value}" in text
    assert shown in text


def test_a_recorded_command_is_shown_as_it_was(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["command"] = ["archnet", "convert", "my model", "--out", "x"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "archnet convert 'my model' --out x" in page_of(folder)[1].text


def test_census_rows_come_gone_first_then_kept_then_new(tmp_path: Path) -> None:
    from archnet.report.contents import read_contents

    contents = read_contents(
        make_build(tmp_path / "b", census_before={"A": 1, "B": 5, "C": 7}, census_after={"A": 2, "D": 9})
    )
    assert contents.census == (
        CensusRow("C", 7, 0),
        CensusRow("B", 5, 0),
        CensusRow("A", 1, 2),
        CensusRow("D", 0, 9),
    )


def test_sizes_are_those_of_the_files_where_they_are(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"x" * 1000)
    (folder / "onnx" / "model.onnx.data").write_bytes(b"x" * 234)
    text = page_of(folder)[1].text
    assert "1.23\u202fkB instead of 90.4\u202fMB" in text


def _kind(folder: Path, kind: str) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "kind": kind}))


def test_a_page_of_pictures_speaks_of_pictures(tmp_path: Path) -> None:
    value = fixture_build.validation().to_json()
    value |= {"task": "images", "metric": "Top-1 accuracy (%)", "data": "test.zip"}
    for score in (value["float_score"], *value["scores"]):
        score["parts"] = {"test.zip": score["score"]}
    rows = [LatencyRow("onnxruntime", batch, 32, 2, 31, 4.0, 1.0, 4.0) for batch in (1, 32)]
    folder = make_build(tmp_path / "b", validation=value, latency=rows)
    _kind(folder, "image")
    html, page = page_of(folder)
    text = page.text
    assert 'data-label="Mean"' not in html
    assert "Top-1 accuracy (%) on test.zip, 3,608 samples" in text
    assert "The final output for the same 64 pictures." in text
    assert "One forward pass of pictures as large as the model reads them, 2 threads" in text
    assert "batch 32" in text
    for words in ("tokens", "sentences", "Longest sequence", "Form of the embedding"):
        assert words not in text, words


def test_a_page_of_pictures_asks_for_the_right_task(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b", parts=())
    _kind(folder, "image")
    assert f"archnet validate {folder} --task images --data FOLDER_OR_ZIP" in page_of(folder)[1].text


def test_the_two_networks_of_a_translator_are_weighed_together(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b", parts=("census",))
    _kind(folder, "translation")
    files = {"encoder/onnx/model.onnx": 1000, "decoder/onnx/model.onnx": 2000}
    for name, count in {**files, "float/network.safetensors": 9000}.items():
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(bytes(count))
    text = page_of(folder)[1].text
    assert "3.00\u202fkB instead of 9.00\u202fkB." in text
    assert "The files of encoder and decoder together." in text


def test_weights_are_listed_by_width_as_they_are_stored(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b", parts=("plan",))
    plan = json.loads((folder / "plan.json").read_text())
    layer = {"site": "a", "elements": 1500, "bits": 3, "damage": {"3": 0.02}}
    plan["bits"] = {"max_drop": 0.5, "predicted": 0.02, "budget": 0.05, "layers": [layer]}
    (folder / "plan.json").write_text(json.dumps(plan))
    constants = {
        "a": {"dtype": "int8", "shape": [100, 15], "bits": 4, "step": 1, "offset": 0},
        "b": {"dtype": "int8", "shape": [1000]},
        "c": {"dtype": "int8", "shape": [30, 100]},
    }
    nodes = [("a", 3), ("b", 8), ("c", 8), ("c", 8)]  # a shared table is stored once
    graph = {
        "constants": constants,
        "nodes": [
            {"op": "FullyConnected", "inputs": ["x", name], "attributes": {"weight_bits": bits}}
            for name, bits in nodes
        ],
    }
    (folder / "graph").mkdir()
    (folder / "graph" / "graph.json").write_text(json.dumps({"graph": graph}))
    text = page_of(folder)[1].text
    assert "Bits of a weightLayersWeightsPacked  824,0004.00\u202fkB 311,500750\u202fB" in text
    assert "a1,5003750\u202fB2.0\u202f%" in text
    (folder / "graph" / "graph.json").write_text('{"graph": {"nodes": [{}]}}')
    assert "Bits of a weight" not in page_of(folder)[1].text


def test_an_empty_file_is_as_good_as_none(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b", parts=("sizes",))
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"")
    assert "22.9\u202fMB instead of 90.4\u202fMB" in page_of(folder)[1].text


@pytest.mark.parametrize(
    ("recorded", "shown"),
    [
        (["/usr/bin/archnet", "convert", "m", "--out", "x"], "archnet convert m --out x"),
        (["/a/archnet/__main__.py", "convert", "m", "--out", "x"], "archnet convert m --out x"),
        (["/usr/bin/pytest", "-q"], "archnet convert MODEL --data FILE_OR_DIR --target archnet"),
        (
            ["archnet", "convert", "a-model", "--data", "d" * 40, "--bits", "w8a8", "--out", "x"],
            f"archnet convert a-model --data {'d' * 40} \\ --bits w8a8 --out x",
        ),
    ],
    ids=["path", "module", "python", "long"],
)
def test_a_command_is_shown_as_it_can_be_typed(tmp_path: Path, recorded: list[str], shown: str) -> None:
    folder = make_build(tmp_path / "b")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "command": recorded}))
    assert shown in page_of(folder)[1].text


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArchNetError, match="is no Arch-Net build"):
        write_report(tmp_path)


def test_damaged_metrics_leave_the_old_page(tmp_path: Path) -> None:
    folder = make_build(tmp_path / "b")
    before = write_report(folder).read_bytes()
    (folder / "metrics.json").write_text('{"blocks": [{"block": "0"}]}')
    with pytest.raises(ArchNetError, match=r"BlockAgreement\.cosine cannot be read: it is missing"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
