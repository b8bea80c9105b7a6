"""A run's journal in, reasons for doubting its result out, in sentences: what an honest report must say unasked.

Noise that was never measured here, data gone over too often, a device that was shared, results nobody looked at. That
luck flatters what was kept is said elsewhere, as is a machine that changed its speed. Standard library only.
"""

from collections.abc import Sequence

from harness.run.records import Record, baseline_of
from harness.run.state import NOT_HELD_AGAINST
from harness.show.sentences import candidates_of, latest_sigma, plural, quoted
from harness.show.stage import in_flight

MANY_EPOCHS = 4  # beyond about this many passes over one corpus, validation stops ranking settings as fresh data would
MANY_CRASHES = 0.3  # share of the tries


def doubts(entries: Sequence[dict], records: Sequence[Record]) -> list[str]:
    """Sentences, the weightiest first; empty when the journal gives no reason for doubt."""
    return [*_doubts_of_noise(entries, records), *_doubts_of_runs(entries, records)]


def _doubts_of_noise(entries: Sequence[dict], records: Sequence[Record]) -> list[str]:
    base, tried = baseline_of(records), candidates_of(records)
    opened = next((entry for entry in entries if entry.get("event") == "opened"), {})
    found = []
    if opened.get("prior"):
        note = opened["prior"].get("note") or "source not stated"
        found.append(
            f"Sigma was estimated with a prior from elsewhere ({quoted(note)}), unless the seeds contradicted it."
        )
    if base and base.n_runs < 3:
        found.append(f"The baseline rests on {plural(base.n_runs, 'seed')}: its mean and sigma are rough.")
    if latest_sigma(records) is None and tried:
        found.append("The noise of a run was never measured, so no gain here can be told from luck.")
    return found


def _doubts_of_runs(entries: Sequence[dict], records: Sequence[Record]) -> list[str]:
    tried, found = candidates_of(records), []
    epochs = max(
        (entry.get("epochs") or 0.0 for entry in entries if entry.get("event") == "trained"), default=0.0
    )
    if epochs > MANY_EPOCHS:
        found.append(f"Trainings passed over the data up to {epochs:.1f} times: rankings may not hold on fresh text.")
    crashed = sum(record.outcome == "crashed" for record in tried)
    if tried and crashed / len(tried) > MANY_CRASHES:
        found.append(f"{crashed} of {len(tried)} tries crashed: look at the failures before the next night.")
    found += _doubts_of_the_machine(entries)
    quarantined = sum(record.outcome == "quarantined" for record in tried)
    if quarantined:
        found.append(
            f"{plural(quarantined, 'result')} in quarantine, for a person to look at: `python3 scripts/overnight.py --accept N` or `--refuse N`."
        )
    audits = [entry for entry in entries if entry.get("event") == "audited"]
    disagreed = sum("disagrees" in (entry.get("holdout"), entry.get("unseen")) for entry in audits)
    if disagreed:
        found.append(
            f"Private text disagreed with {plural(disagreed, 'gain')}: it may be fitted to the validation text, or looked up."
        )
    flight = in_flight(entries)
    if flight:
        found.append(f"Experiment {flight.experiment:04d} is not decided yet ({flight.words}).")
    return found


def _doubts_of_the_machine(entries: Sequence[dict]) -> list[str]:
    """What happened to trainings that was not the ideas' doing."""
    trained, found = [entry for entry in entries if entry.get("event") == "trained"], []
    shared = sum(bool(entry.get("shared_with")) for entry in trained)
    if shared:
        others = {name.rpartition("/")[2] for entry in trained for name in entry.get("shared_with") or []}
        named = ", ".join(quoted(name) for name in sorted(others))
        by_wall = any(entry.get("shared_with") and entry.get("core_seconds") is None for entry in trained)
        less = ": less was learnt in the same budget" if by_wall else ", which a budget of work does not mind"
        found.append(f"{plural(shared, 'training')} shared the device with {named}{less}.")
    repeated = sum(entry.get("status") in NOT_HELD_AGAINST for entry in trained)
    if repeated:
        found.append(f"{plural(repeated, 'training')} ended for reasons outside of train.py, and had to be repeated.")
    for entry in entries:
        if entry.get("event") == "controlled" and entry.get("status") != "ok":
            numbers = ", ".join(f"{number:04d}" for number in entry.get("suspects") or [])
            found.append(
                f"Experiments {numbers} failed alike ({quoted(entry.get('suspected'))}), and then the best file did, too: the machine's fault. Try them again."
            )
    return list(dict.fromkeys(found))
