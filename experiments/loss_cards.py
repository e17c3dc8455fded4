"""The loss cards: `docs/losses`, a page for every loss, made from its docstring and from running it.

Nothing on a page is written twice: words and equation are the docstring's; worked number, curves, slope and where it
saturates come from the function. `python -m experiments.loss_cards` writes all of them anew.
"""

import functools
import importlib
import inspect
import pkgutil
import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import tyro

from experiments.figures import STYLE
from experiments.loss_curves import POINTS, curve, flat_parts, shown, slope, trailing_axes, worked
from prefjax import losses, returns, rewards
from prefjax.checks import require
from prefjax.train import markdown_table, write_text

SECTIONS = ("Args", "Returns", "Raises", "Range", "Optimum", "Relatives", "Elsewhere", "Source")
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f")


class Docstring(NamedTuple):
    """A docstring in its parts: first sentence, what follows up to the first section, and the sections by name."""

    summary: str
    body: str
    sections: Mapping[str, str]

    @property
    def equation(self) -> str:
        """The first indented block of the body; nothing for the few functions that have none."""
        blocks = re.findall(r"(?:^    .*\n|^\n(?=    ))+", self.body + "\n", re.MULTILINE)
        return textwrap.dedent(next((block for block in blocks if block.strip()), "")).strip("\n")


def read_docstring(function: Callable) -> Docstring:
    """Raises: InputError for a docstring without a source."""
    head, *rest = re.split(rf"^({'|'.join(SECTIONS)}):", inspect.getdoc(function) or "", flags=re.MULTILINE)
    sections = {name: _unwrapped(body) for name, body in zip(rest[::2], rest[1::2], strict=True)}
    require(
        "Source" in sections, function.__name__, f"a docstring with {', '.join(sections) or 'no sections'}",
        "a Source among them", "Write it.",
    )  # fmt: skip
    summary, _, body = head.strip().partition("\n")
    return Docstring(summary.strip(), body.strip("\n"), sections)


def _unwrapped(section: str) -> str:
    """Without the indentation that its first line, which stands behind the name, does not have."""
    first, _, rest = section.partition("\n")
    return f"{first.strip()}\n{textwrap.dedent(rest)}".strip()


def published(room: ModuleType) -> dict[str, list[Callable]]:
    """Every public function of a room, by the file it lies in, in the order in which they stand there."""
    public = [value for value in vars(room).values() if inspect.isfunction(value)]
    files = {}
    for file in pkgutil.iter_modules(room.__path__):
        module = importlib.import_module(f"{room.__name__}.{file.name}")
        found = [
            value
            for value in vars(module).values()
            if value in public and value.__module__ == module.__name__
        ]
        if found:
            files[file.name] = found
    return files


def is_loss(function: Callable) -> bool:
    """Whether it is to be minimised; others of the room are weights, masks and statistics that losses take."""
    return "Optimum" in read_docstring(function).sections


@functools.cache
def every_loss() -> list[Callable]:
    return [function for file in published(losses).values() for function in file if is_loss(function)]


def data_of(loss: Callable) -> str:
    parameters = inspect.signature(loss).parameters
    if any(
        "K" in trailing_axes(p.annotation) for p in parameters.values() if hasattr(p.annotation, "dim_str")
    ):
        return "lists" if "thresholds" not in parameters else "completions, grades"
    names = " ".join(parameters)
    kinds = {
        "chosen": "pairs", "swapped_score": "pairs", "degree": "completions, degree", "desirable": "single, labelled",
        "advantages": "tokens, advantages",
        "labels": "steps, labelled", "preference": "samples, preference", "sample": "samples", "scores": "lists",
        "values": "tokens, returns", "reference_logps": "tokens", "logits": "distributions",
    }  # fmt: skip
    return next((kind for word, kind in kinds.items() if word in names), "completions")


def reference_of(loss: Callable) -> str:
    names = " ".join(inspect.signature(loss).parameters)
    needed = [
        word for word, signs in {"reference": ("logratio", "reference"), "behaviour": ("behaviour",)}.items()
        if any(sign in names for sign in signs)
    ]  # fmt: skip
    return ", ".join(needed) or "none"


def page(loss: Callable) -> str:
    doc, seen = read_docstring(loss), shown(loss)
    settings = ", ".join(f"{name} = {value:g}" for name, value in seen.settings.items())
    flat = [
        (f"{label}: " if label else "") + flat_parts(loss, seen, tensors) for label, tensors in seen.cases
    ]
    parts = [
        f"# {loss.__name__}", doc.summary, _as_markdown(doc.body),
        f"![The loss and its gradient](figures/{loss.__name__}.png)",
        f"*x is {seen.axis.label}{'; ' + settings if settings else ''}.*",
        "**Worked number.** " + " ".join(worked(loss, seen, tensors) for _, tensors in seen.cases),
        f"**Slope**, measured: {slope(loss)}. **Flat** (under a hundredth of the steepest): {'; '.join(flat)}.",
    ]  # fmt: skip
    if "Args" in doc.sections:
        parts.append("\n".join(_arguments(doc.sections["Args"])))
    headings = {"Elsewhere": "Elsewhere, under this name"}
    for name in SECTIONS[1:]:
        if name in doc.sections and name != "Raises":
            parts.append(f"**{headings.get(name, name)}.** {_linked(' '.join(doc.sections[name].split()))}")
    file = loss.__module__.rpartition(".")[2] + ".py"
    parts.append(
        f"In [`prefjax/losses/{file}`](../../prefjax/losses/{file}); all losses: [the index](README.md)."
    )
    return "\n\n".join(parts) + "\n"


def _arguments(text: str) -> list[str]:
    entries = re.split(r"^(?=[a-z_]\w*:)", text, flags=re.MULTILINE)
    pairs = (entry.partition(":")[::2] for entry in entries if entry.strip())
    return [f"- `{name}`: {_linked(' '.join(said.split()))}" for name, said in pairs]


def _as_markdown(body: str) -> str:
    """Paragraphs as lines that flow, indented blocks as code."""
    blocks = re.split(r"\n{2,}", body.strip("\n"))
    out = []
    for block in blocks:
        if block.startswith("    "):
            out.append("```text\n" + textwrap.dedent(block) + "\n```")
        else:
            out.append(_linked(" ".join(block.split())))
    return "\n\n".join(out)


def _linked(text: str) -> str:
    known = {loss.__name__ for loss in every_loss()}
    return re.sub(r"`(\w+)`", lambda m: f"[`{m[1]}`]({m[1]}.md)" if m[1] in known else m[0], text)


def index() -> str:
    """All losses in a table, a section a file; then what makes their inputs: returns and rewards."""
    parts = [
        "# Every loss",
        "Made by `python -m experiments.loss_cards` from the docstrings and from running each function. Slopes are "
        "measured at the settings that each card names, with β = 0.1 where there is one.",
    ]
    for file, functions in published(losses).items():
        parts.append(f"## {_titled(losses, file)}")
        rows = [
            [
                f"[`{f.__name__}`]({f.__name__}.md)", data_of(f), reference_of(f), slope(f),
                _cell(_linked(_first_sentence(read_docstring(f).sections["Optimum"]))),
            ]
            for f in functions if is_loss(f)
        ]  # fmt: skip
        if rows:
            parts.append(markdown_table(["loss", "data", "held fixed", "slope", "optimum"], rows))
        parts.extend(map(_entry, (f for f in functions if not is_loss(f))))
    parts.append("# What goes in: returns and rewards")
    for room in (returns, rewards):
        for file, functions in published(room).items():
            parts.append(f"## `{room.__name__}`: {_titled(room, file)}")
            parts.extend(map(_entry, functions))
    return "\n\n".join(parts) + "\n"


def _entry(function: Callable) -> str:
    """A function that is not minimised: name, sentence, equation, source."""
    doc = read_docstring(function)
    source = _linked(" ".join(doc.sections["Source"].split()))
    equation = f"\n\n```text\n{doc.equation}\n```" if doc.equation else ""
    return f"**`{function.__name__}`**: {doc.summary}{equation}\n\n*{source}*"


def _titled(room: ModuleType, file: str) -> str:
    """The first sentence of a file, which says its idea."""
    first = (inspect.getdoc(importlib.import_module(f"{room.__name__}.{file}")) or "").partition("\n\n")[0]
    return " ".join(first.split()).rstrip(".")


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=[.;]) ", " ".join(text.split()) + " ")[0].rstrip(".; ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def draw(loss: Callable, path: Path) -> None:
    """The loss on the left, its gradient in each tensor on the right."""
    seen = shown(loss)
    x = np.linspace(seen.axis.low, seen.axis.high, POINTS)
    with plt.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(6.4, 2.2), layout="constrained")
        for i, (label, tensors) in enumerate(seen.cases):
            drawn = curve(loss, seen, tensors, x)
            left.plot(x, drawn.value, lw=1.3, color=COLOURS[i], label=label or None)
            for j, (name, gradient) in enumerate(drawn.gradients.items()):
                said = ", ".join(filter(None, [f"in {name}" if len(drawn.gradients) > 1 else "", label]))
                colour = COLOURS[i if len(seen.cases) > 1 else j]
                right.plot(x, gradient, lw=1.3, ls=("-", "--", ":")[j % 3], color=colour, label=said or None)
        for axis, title in ((left, "loss"), (right, "gradient")):
            axis.set(title=title, xlabel=seen.axis.label)
            if axis.get_legend_handles_labels()[0]:
                axis.legend(fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, bbox_inches="tight")
        plt.close(figure)


@dataclass(frozen=True)
class Config:
    out: Path = Path("docs/losses")


def main(config: Config) -> None:
    functions = every_loss()
    for f in functions:
        write_text(config.out / f"{f.__name__}.md", page(f))
        draw(f, config.out / "figures" / f"{f.__name__}.png")
    write_text(config.out / "README.md", index())
    print(f"{len(functions)} cards in {config.out}")


if __name__ == "__main__":
    main(tyro.cli(Config))
