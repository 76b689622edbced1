"""Qualcomm's HTP through ONNX Runtime's QNN execution provider: compile, and run in the emulator for x86.

Options are those of the provider's manual (onnxruntime-qnn 2.7, QNN-ExecutionProvider). Arrays travel as
.npz files whose entries are numbered, because names of tensors may be no names of files.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import onnxruntime_qnn as qnn

PROVIDER = "QNNExecutionProvider"
ERRORS_ONLY = 3

_sessions: dict[str, Any] = {}


def compile(request: dict[str, Any]) -> dict[str, Any]:
    """Compile a QDQ file into a context binary, the whole network or nothing.

    Args:
        request: "model" and "context" (files), "scratch" (an empty folder), "architecture", "soc".

    Returns:
        "operators": kinds of QNN operators with their number; "elsewhere": what QNN does not take, as kind
        and name: then the binary, if there is one, is of the rest.
    """
    scratch = Path(request["scratch"])
    entries = {
        "session.disable_cpu_ep_fallback": "1",
        "ep.context_enable": "1",
        "ep.context_file_path": request["context"],
        "ep.context_embed_mode": "0",
    }
    dump = {"dump_json_qnn_graph": "1", "json_qnn_graph_dir": str(scratch)}
    try:
        _open(request["model"], request, entries, dump)
    except Exception:
        elsewhere = _left_over(request)
        if not elsewhere:
            raise
        return {"operators": {}, "elsewhere": elsewhere}
    operators: Counter[str] = Counter()
    for path in sorted(scratch.glob("*.json")):
        nodes = json.loads(path.read_text(encoding="utf-8")).get("graph", {}).get("nodes", {})
        operators.update(node["type"] for node in nodes.values())
    return {"operators": dict(operators), "elsewhere": []}


def load(request: dict[str, Any]) -> dict[str, Any]:
    """Open a QDQ file, or the ONNX file beside a context binary, in the emulator.

    Args:
        request: "model" (file), "architecture", "soc".

    Returns:
        "inputs" and "outputs": names in order.
    """
    session = _open(request["model"], request, {"session.disable_cpu_ep_fallback": "1"}, {})
    _sessions[request["model"]] = session
    return {
        "inputs": [value.name for value in session.get_inputs()],
        "outputs": [value.name for value in session.get_outputs()],
    }


def run(request: dict[str, Any]) -> dict[str, Any]:
    """Run an opened file.

    Args:
        request: "model" (as given to `load`), "names" of the inputs, "inputs" (.npz with entries 0, 1, ... in
            that order), "outputs" (.npz that is written, entries in the order of the model's outputs).
    """
    session = _sessions[request["model"]]
    with np.load(request["inputs"]) as arrays:
        fed = {name: arrays[str(i)] for i, name in enumerate(request["names"])}
    results = session.run(None, fed)
    np.savez(request["outputs"], **{str(i): value for i, value in enumerate(results)})
    return {}


def _open(
    model: str, request: dict[str, Any], entries: dict[str, str], options: dict[str, str]
) -> ort.InferenceSession:
    if not any(device.ep_name == PROVIDER for device in ort.get_ep_devices()):
        ort.register_execution_provider_library(PROVIDER, qnn.get_library_path())
    devices = [device for device in ort.get_ep_devices() if device.ep_name == PROVIDER][:1]
    settings = ort.SessionOptions()
    settings.log_severity_level = ERRORS_ONLY
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    chip = {
        "backend_path": qnn.get_qnn_htp_path(),
        "htp_arch": request["architecture"],
        "soc_model": request["soc"],
    }
    settings.add_provider_for_devices(devices, {**chip, **options})
    return ort.InferenceSession(model, settings)


def _left_over(request: dict[str, Any]) -> list[str]:
    """What another processor gets when it is allowed to."""
    session = _open(request["model"], request, {"session.record_ep_graph_assignment_info": "1"}, {})
    pairs = ("QuantizeLinear", "DequantizeLinear")
    nodes = [
        node
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    ]
    real = [node for node in nodes if node.op_type not in pairs] or nodes
    return [f"{node.op_type} ({node.name})" for node in real]
