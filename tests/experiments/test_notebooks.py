"""Every notebook runs from its first cell to its last, in a kernel of its own and on the installed package alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colab").glob("*.ipynb"))
CELL_SECONDS = 1200  # a machine may be busy; an idle one needs a minute for the longest cell
PROBE = 'import sys, experiments, prefjax; print("PROBE", sys.prefix, experiments.__file__, prefjax.__file__)'


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The package as others get it, built offline, from a copy: a build leaves files that the next one packs."""
    home = tmp_path_factory.mktemp("package")
    copy, built = home / "source", home / "wheel"
    for name in ("prefjax", "experiments"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip("wheel", "--no-build-isolation", "--wheel-dir", built, copy)
    (path,) = built.glob("prefjax-*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A directory into which the wheel, and nothing else, is installed."""
    site = tmp_path_factory.mktemp("site")
    pip("install", "--target", site, wheel)
    return site


def pip(command: str, *arguments: object) -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-index",
            "--no-deps", *map(str, arguments),
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def read(notebook: Path):
    return nbformat.read(notebook, as_version=4)


def run(cells: list, directory: Path, site: Path, seconds: int = CELL_SECONDS, **environment: str) -> list:
    """Executes the cells in `directory` with `site` before all other packages; returns what each code cell put out."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.from_dict(cell) for cell in cells])
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE))
    began: list[int] = []
    client = NotebookClient(
        notebook, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(directory)}},
        on_cell_start=lambda cell, cell_index: began.append(cell_index),
    )  # fmt: skip
    env = {
        **{name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "MPLBACKEND")},
        "PYTHONPATH": str(site), "IPYTHONDIR": str(directory / "ipython"), "PREFJAX_QUICK": "1",
        "PREFJAX_CACHE": str(directory / "cache"), "PREFJAX_SOURCE": "", **environment,
    }  # fmt: skip
    try:
        client.execute(env=env)
    except (CellExecutionError, CellTimeoutError) as error:
        source = notebook.cells[began[-1]].source
        said = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
        pytest.fail(f"cell {began[-1]} of {directory.name} failed:\n\n{source}\n\n{said}", pytrace=False)
    *outputs, probe = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]
    (line,) = [line for line in text_of(probe).splitlines() if line.startswith("PROBE")]
    prefix, *files = line.split()[1:]
    assert prefix == sys.prefix, "the kernel is that of another environment"
    assert all(Path(file).is_relative_to(site) for file in files), f"not the installed package: {files}"
    return outputs


def text_of(outputs: list) -> str:
    return "".join(
        output.get("text", "") + str(output.get("data", {}).get("text/markdown", "")) for output in outputs
    )


def pictures_in(outputs: list) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.timeout(300)
def test_one_loss_and_one_game(installed, tmp_path):
    outputs = run(read(ROOT / "colab" / "loss_and_game.ipynb").cells, tmp_path, installed)
    said = "".join(map(text_of, outputs))
    assert "0.6931472" in said
    assert "[0.591386 0.092861 0.315753]" in said.replace("0.59138596", "0.591386")
    assert sum(map(pictures_in, outputs)) == 2


@pytest.mark.timeout(2 * CELL_SECONDS)
def test_the_whole_way(installed, tmp_path):
    outputs = run(read(ROOT / "colab" / "align.ipynb").cells, tmp_path, installed)
    said = "".join(map(text_of, outputs))
    assert "by hand 0.620957, prefjax 0.620957, derivative in ρ⁺ -0.046257" in said
    assert "policy = reference: 0.6931472" in said
    assert "## Who is preferred to whom, under gold" in said
    assert "| ipo, β = 0.1" in said
    # The loss and its slope; the report's two figures; the training curves.
    assert [pictures for pictures in map(pictures_in, outputs) if pictures] == [1, 2, 1]
    report = json.loads((tmp_path / "runs" / "notebook-quick" / "report.json").read_text())
    assert list(report["policies"]) == ["SFT", "DPO", "Nash-MD", "best-of-n"]


@pytest.mark.timeout(300)
def test_the_first_cell_installs_what_it_is_told(wheel, tmp_path):
    """Into an empty directory, so that nothing else here changes; on a machine without a GPU, so that JAX stays."""
    site, programs = tmp_path / "site", tmp_path / "programs"
    site.mkdir()
    programs.mkdir()
    # All that the search path holds: no `nvidia-smi`, but the shell through which a notebook starts programs.
    (programs / "sh").symlink_to("/bin/sh")
    first = next(cell for cell in read(ROOT / "colab" / "align.ipynb").cells if cell.cell_type == "code")
    run(
        [first], tmp_path, site, PREFJAX_SOURCE=f"{wheel}[experiments]",
        PATH=f"{Path(sys.executable).parent}:{programs}", PIP_TARGET=str(site), PIP_NO_DEPS="1", PIP_NO_INDEX="1",
    )  # fmt: skip


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("source", "seconds", "why"),
    [("broken = {}\nbroken['no such key']", 60, "KeyError"), ("while True:\n    pass", 2, "timed out")],
    ids=["an error", "no end"],
)
def test_a_cell_that_fails_is_shown(source, seconds, why, installed, tmp_path):
    cells = [nbformat.v4.new_markdown_cell("words"), nbformat.v4.new_code_cell(source)]
    with pytest.raises(pytest.fail.Exception) as failure:
        run(cells, tmp_path, installed, seconds)
    message = str(failure.value)
    assert message.startswith(f"cell 1 of {tmp_path.name} failed:\n\n{source}\n")
    assert why in message
    assert "\x1b" not in message


def test_the_wheel_holds_both_packages_whole(installed):
    def files(root: Path, name: str) -> set[str]:
        kept = (path for path in (root / name).rglob("*") if path.suffix in (".py", ".typed"))
        return {path.relative_to(root).as_posix() for path in kept}

    for name in ("prefjax", "experiments"):
        assert files(installed, name) == files(ROOT, name)
    assert (installed / "prefjax" / "py.typed").exists()
    assert {path.name for path in installed.iterdir() if path.is_dir()} - {"bin"} == {
        "prefjax",
        "experiments",
        *(path.name for path in installed.glob("prefjax-*.dist-info")),
    }


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_clean(notebook):
    """Valid, without outputs, and with the same first code cell as all the others."""
    content = read(notebook)
    nbformat.validate(content)
    assert (content.nbformat, content.nbformat_minor) == (4, 5)
    code = [cell for cell in content.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert len({cell.id for cell in content.cells}) == len(content.cells) <= 20
    first = next(cell for cell in read(NOTEBOOKS[0]).cells if cell.cell_type == "code")
    assert code[0].source == first.source
