"""What the baseline's and the branch's model write, side by side, in Markdown.

In: model_text.json. Out: a section of the report, and of notebook 05. The text is a model's that
edited code trained: it stands in indented blocks, out of which no text can break.
"""

from __future__ import annotations

from harness.ground.text import without_escapes
from harness.lab.model_text import is_of_branch, read_model_text
from harness.run.run import Run
from harness.scoring.text_sampling import TEMPERATURE


def say_texts(run: Run) -> str:
    """The section; "" where the models have not written, or the branch has moved on since."""
    found = read_model_text(run.folder)
    if not is_of_branch(found, run.state):
        return ""
    parts = [
        "Beginnings of training text, and how each model goes on, at temperature "
        f"{TEMPERATURE:g} and with the same random numbers. It shows what such scores look like; "
        "a few lines measure nothing."
    ]
    for number, begun in enumerate(found["beginnings"]):
        parts += [f"**Beginning {number + 1}**:", block(begun)]
        parts += [part for model in found["models"] for part in text_of(model, number)]
    return "\n\n".join(parts)


def text_of(model: dict, number: int) -> tuple[str, str]:
    """Who writes, and what: why nothing, where the model could not."""
    who = f"experiment {model['experiment']}, on the branch" if model["experiment"] else "baseline"
    if model["texts"]:
        return f"{who}:", block(model["texts"][number])
    return f"{who}, could not write:", block(model["cause"])


def block(text: str) -> str:
    """Text as an indented block of code."""
    lines = without_escapes(text).splitlines() or [""]
    shown = lines if any(line.strip() for line in lines) else ["(nothing but blanks)"]
    return "\n".join(f"    {line}" for line in shown)
