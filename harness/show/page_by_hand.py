"""The page of an experiment of notebook 03 by hand, like a night's: from the journal and the files
of the run, so that a tab which was closed meanwhile loses nothing of it.
"""

from __future__ import annotations

import os
import urllib.parse

from harness.ground.files import write_text_atomic
from harness.lab.loop import NIGHT_VARIABLE, Lab
from harness.run.run import page_name
from harness.show import experiment_page, idea_page
from harness.show.addresses import address
from harness.show.index import write_index
from harness.show.markup import as_text, diff
from harness.show.pages import finish_page
from harness.show.report import write_page


def leave_page(lab: Lab) -> None:
    """Write the page, the list of pages and the report; of a night its driver does."""
    if os.environ.get(NIGHT_VARIABLE):
        return
    from nbformat import v4, writes

    experiment, here = lab.experiment, urllib.parse.quote(address(lab.folder))
    decided = experiment_page.decision_page(experiment)
    parts = {
        "The idea": idea_page.idea_page(lab, experiment) + diff(lab.diff()),
        "Checks": idea_page.check_page(experiment) + idea_page.repairs_page(lab, experiment),
        "Training and score": experiment_page.score_page(lab, experiment),
        "Decision": decided + idea_page.hypothesis_page(lab, experiment),
        "What was learnt": experiment_page.learnt_page(lab, experiment),
    }
    cells = []
    for title, body in parts.items():
        shown = as_text(body).replace(f'href="{here}/', 'href="../')
        outputs = [v4.new_output("display_data", data={"text/html": shown})]
        cells += [v4.new_markdown_cell(f"## {title}"), v4.new_code_cell(outputs=outputs)]
    path = lab.folder / "notebooks" / f"{page_name(experiment.number)}.ipynb"
    path.parent.mkdir(exist_ok=True)
    write_text_atomic(path, writes(v4.new_notebook(cells=cells)))
    finish_page(path)
    write_index(lab.folder)
    write_page(lab.folder, live=False)
