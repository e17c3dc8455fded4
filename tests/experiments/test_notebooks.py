"""Every notebook runs from its first cell to its last, and prints the numbers that the methods promise."""

import json
import re
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pytest

matplotlib.use("Agg")
NOTEBOOKS = sorted((Path(__file__).parents[2] / "colab").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, capsys):
    import jax

    scope: dict = {}
    cells = json.loads(notebook.read_text())["cells"]
    with jax.numpy_rank_promotion("allow"):  # a reader's own code may broadcast
        for cell in cells:
            if cell["cell_type"] == "code":
                source = re.sub(r"^(\s*)%pip.*$", r"\1pass", "".join(cell["source"]), flags=re.MULTILINE)
                exec(compile(source, str(notebook), "exec"), scope)
    plt.close("all")
    said = capsys.readouterr().out
    assert "0.6931472" in said
    assert "[0.591386 0.092861 0.315753]" in said.replace("0.59138596", "0.591386")
