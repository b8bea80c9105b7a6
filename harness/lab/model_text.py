"""What the baseline's and the branch's model write after the same three beginnings, for people.

In: an open run with something kept. Out: model_text.json in its folder. It decides nothing, so a
model that cannot write is noted with the cause, and ends no night. Made again where it is missing,
or the branch has moved on.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from harness.data.tokenizer import Tokenizer, load_tokenizer
from harness.ground.files import read_json, write_json_atomic
from harness.lab.open_run import OpenRun
from harness.run.run import Run
from harness.run.state import Experiment, State
from harness.scoring.channel import ScoreError
from harness.scoring.text_sampling import beginnings, write_on

NAME = "model_text.json"
MOST_CHARACTERS = 1000  # of one text: a token may be a long run of blanks


def read_model_text(folder: Path) -> dict:
    """What was written, {} where there is none.

    beginnings: the texts. models: of each its experiment, its texts, and the cause where it could
    not write.
    """
    try:
        return read_json(folder / NAME)
    except (OSError, ValueError):
        return {}


def is_of_branch(found: dict, state: State) -> bool:
    """Whether it is of the baseline and of what is on the branch now."""
    tip = state.incumbent
    numbers = [model["experiment"] for model in found.get("models", [])]
    return tip is not None and numbers == [0, tip.number]


def is_wanted(run: Run) -> bool:
    """Whether something was kept whose text is not there."""
    tip = run.state.incumbent
    kept = tip is not None and tip.number > 0
    return kept and not is_of_branch(read_model_text(run.folder), run.state)


def write_model_text(run: OpenRun) -> None:
    """Let both models write, where that is wanted."""
    if not is_wanted(run):
        return
    tokenizer = load_tokenizer(run.data.train_dir / "tokenizer.json")
    begun = [as_text(tokenizer, row) for row in beginnings(run.data)]
    models = [texts_of(run, tokenizer, each) for each in (run.state.kept[0], run.state.incumbent)]
    write_json_atomic(run.folder / NAME, {"beginnings": begun, "models": models})


def texts_of(run: OpenRun, tokenizer: Tokenizer, experiment: Experiment) -> dict:
    """What the model of an experiment's first scored run writes: that of best/ on the branch."""
    train_py, first = run.train_py(experiment), experiment.attempt.scored[0]
    folder = train_py.parent / "runs" / f"{first.number:02d}"
    texts, cause = [], ""
    try:
        tokens = write_on(run.executor.measurement(train_py, folder))
        texts = [as_text(tokenizer, row) for row in tokens]
    except ScoreError as error:
        cause = error.cause
    return {"experiment": experiment.number, "texts": texts, "cause": cause}


def as_text(tokenizer: Tokenizer, tokens: Iterable[int]) -> str:
    """Text of tokens, up to where the next document begins."""
    ids = [int(token) for token in tokens]
    ids = ids[1:] if ids[:1] == [tokenizer.bos_id] else ids
    end = ids.index(tokenizer.bos_id) if tokenizer.bos_id in ids else len(ids)
    return tokenizer.decode_bytes(ids[:end]).decode("utf-8", errors="replace")[:MOST_CHARACTERS]
