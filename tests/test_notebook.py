"""The example notebook runs from top to bottom in a workspace with the demo world and a champion."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "docs" / "notebooks" / "first_steps.ipynb"
MAX_KEPT_BYTES = 60_000


@pytest.mark.integration
@pytest.mark.filterwarnings("default")  # the notebook's client and its sockets warn of their own matters
def test_the_notebook_runs(demo_workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSO_STORAGE__WORKSPACE", str(demo_workspace))
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    labels = [
        text
        for cell in notebook.cells
        if cell.cell_type == "code" and ".predict(" in cell.source
        for output in cell.outputs
        for text in [str(output)]
    ]
    assert any("Positive" in text for text in labels)
    assert any("Negative" in text for text in labels)


def test_what_is_kept_of_the_outputs_is_small_and_of_no_machine() -> None:
    text = NOTEBOOK.read_text("utf-8")
    assert len(text) < MAX_KEPT_BYTES
    assert str(Path(sys.prefix).parent) not in text
    for cell in json.loads(text)["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] or cell["source"][0].startswith("import"), f"no output is kept of {cell['source']}"
            assert not any(output["output_type"] == "error" for output in cell["outputs"])
