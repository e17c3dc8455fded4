"""No import arrow between rooms runs the wrong way, and `import prefjax` stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"types", "checks"}
PURE = {"returns", "bellman", "games", "rewards", "losses"}
# What a room may import beside itself and `checks`. A dotted name allows that file only.
ARROWS: dict[str, set[str]] = {
    "types": set(),
    "checks": set(),
    "returns": {"types"},
    "bellman": {"types", "returns"},
    "games": {"types"},
    "rewards": {"types"},
    "losses": {"types", "rewards", "bellman.distributional"},
    "data": {"types"},
    "policy": {"types"},
    "train": {"types"},
    "align": {"types", *PURE, "data", "policy"},
    "evaluate": {"types", "rewards", "policy", "align"},
    "": {"types"},  # prefjax/__init__.py
}
CHEAP = {"jax", "numpy", "chex", "jaxtyping"} | set(sys.stdlib_module_names)
HEAVY = (
    "flax",
    "optax",
    "orbax",
    "transformers",
    "tokenizers",
    "tensorflow_datasets",
    "grain",
    "torch",
    "matplotlib",
)


def imported(source: str, package: str) -> list[tuple[int, str]]:
    """Line and dotted name of everything that a file of `package` imports, wherever in the file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{module}.{alias.name}") for alias in node.names]
    return found


def room_of(path: Path) -> str:
    """`losses` for prefjax/losses/preference.py, `types` for prefjax/types.py, "" for prefjax/__init__.py."""
    first = path.parts[1]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def wrong_arrows(path: Path, source: str) -> list[str]:
    """Of one file of the library, `path` relative to the repository."""
    room, wrong = room_of(path), []
    for line, name in imported(source, ".".join(path.parent.parts)):
        top, *inside = name.split(".")
        if top == "prefjax":
            target = ".".join(inside)
            allowed = {room, "checks", *ARROWS[room]}
            if not any(target == a or target.startswith(a + ".") for a in allowed if a):
                wrong.append(f"{path}:{line}: {room or 'prefjax'} must not import {name}")
        elif room in PURE | GROUND | {""} and top not in CHEAP:
            wrong.append(f"{path}:{line}: {room or 'prefjax'} is pure and must not import {top}")
    return wrong


def public_names(path: Path) -> set[str]:
    """What a file defines or imports at its top level, without a leading underscore."""
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def beyond_public(path: Path, source: str) -> list[str]:
    """What a file uses of the library beside `import prefjax` and `from prefjax.<room> import <name>`."""
    wrong = []
    for line, name in imported(source, ".".join(path.parent.parts)):
        top, *inside = name.split(".")
        if top != "prefjax" or not inside:
            continue
        room = inside[0]
        file = ROOT / "prefjax" / (f"{room}.py" if room in GROUND else f"{room}/__init__.py")
        fine = file.exists() and (len(inside) == 1 or (len(inside) == 2 and inside[1] in public_names(file)))
        if not fine:
            wrong.append(f"{path}:{line}: {name} is not a public name of the library")
    return wrong


def sources(folder: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


def test_every_room_has_its_arrows():
    assert {room_of(path) for path in sources("prefjax")} <= set(ARROWS)


def test_no_arrow_runs_the_wrong_way():
    assert [
        line for path in sources("prefjax") for line in wrong_arrows(path, (ROOT / path).read_text())
    ] == []


def test_experiments_use_public_names_alone():
    found = [
        line for path in sources("experiments") for line in beyond_public(path, (ROOT / path).read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("prefjax/losses/planted.py", "from prefjax.train import make_step"),
        ("prefjax/losses/planted.py", "import prefjax.policy.decoder as d"),
        ("prefjax/losses/planted.py", "from prefjax import align"),
        ("prefjax/losses/planted.py", "from prefjax.bellman.mdp import FiniteMDP"),
        ("prefjax/losses/planted.py", "from prefjax.bellman import FiniteMDP"),
        ("prefjax/losses/planted.py", "def late():\n    import optax"),
        ("prefjax/losses/planted.py", "from ..games import win_rate"),
        ("prefjax/games/planted.py", "from prefjax.losses import dpo_loss"),
        ("prefjax/games/planted.py", "import scipy.optimize"),
        ("prefjax/returns/planted.py", "from prefjax.bellman import FiniteMDP"),
        ("prefjax/train/planted.py", "from prefjax.losses import dpo_loss"),
        ("prefjax/train/planted.py", "from prefjax.policy import Policy"),
        ("prefjax/align/planted.py", "from prefjax.train import fit"),
        ("prefjax/policy/planted.py", "from prefjax.data import batches"),
        ("prefjax/evaluate/planted.py", "from prefjax.losses import dpo_loss"),
        ("prefjax/types.py", "from prefjax.losses import dpo_loss"),
        ("prefjax/__init__.py", "import flax"),
        ("prefjax/losses/planted.py", "import prefjax"),
    ],
)
def test_a_planted_arrow_is_found(path, source):
    (found,) = wrong_arrows(Path(path), source)
    assert found.startswith(path)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("prefjax/losses/planted.py", "import math\nimport jax.numpy as jnp\nfrom prefjax.rewards import x"),
        ("prefjax/losses/planted.py", "from prefjax.bellman.distributional import project"),
        ("prefjax/losses/planted.py", "from prefjax.losses.nash import nash_md_loss"),
        ("prefjax/losses/planted.py", "from .nash import nash_md_loss"),
        ("prefjax/train/planted.py", "import optax\nfrom prefjax.checks import require"),
        ("prefjax/align/planted.py", "from prefjax.games import win_rate"),
    ],
)
def test_an_arrow_the_right_way_is_not(path, source):
    assert wrong_arrows(Path(path), source) == []


def test_a_planted_private_path_is_found():
    path = Path("experiments/planted.py")
    for source in (
        "from prefjax.losses.preference import dpo_loss",
        "import prefjax.losses.preference",
        "from prefjax.losses import preference",
        "from prefjax.losses import no_such_loss",
        "from prefjax.attic import dpo_loss",
    ):
        assert len(beyond_public(path, source)) == 1, source
    for source in (
        "import prefjax\nimport flax",
        "import prefjax.games",
        "from prefjax import losses",
        "from prefjax.losses import dpo_loss",
    ):
        assert beyond_public(path, source) == [], source


@pytest.mark.parametrize("rooms", [(), tuple(sorted(PURE))], ids=["alone", "with its pure rooms"])
def test_importing_the_library_loads_nothing_heavy(rooms):
    program = f"""
import sys
import prefjax
for room in {rooms!r}:
    getattr(prefjax, room)
print(*sorted(set({HEAVY!r}) & {{name.split(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stdout + done.stderr
