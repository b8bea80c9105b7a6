"""Whether model_text.json is what the lab writes. A part of `check`.

In: a Look, one reading of a run. Out: sentences, each one thing that does not agree. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator

from harness.check.files import Look
from harness.ground.files import read_json
from harness.lab.model_text import MOST_CHARACTERS, NAME
from harness.scoring.text_sampling import TEXTS


def check_model_text(look: Look) -> Iterator[str]:
    """It is of the baseline and of an experiment that was kept, and no longer than it may be."""
    mend = "delete it: --close-out writes it again"
    try:
        found = read_json(look.folder / NAME)
        models = {model["experiment"]: model["texts"] for model in found["models"]}
        texts = [found["beginnings"], *(texts for texts in models.values() if texts)]
        sizes = {len(text) for text in sum(texts, [])}
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        yield f"{NAME} cannot be read: {mend}"
        return
    kept = {experiment.number for experiment in look.state.kept}
    if strangers := sorted(set(models) - kept):
        yield f"{NAME} is of experiment {strangers[0]}, which was never kept: {mend}"
    if {len(each) for each in texts} != {TEXTS} or max(sizes) > MOST_CHARACTERS:
        yield f"{NAME} has not {TEXTS} texts of at most {MOST_CHARACTERS} characters: {mend}"
