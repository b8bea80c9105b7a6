"""A run's journal in, reasons for doubting its result out: what an honest report must say unasked.

Noise that was never measured here, data gone over too often, a device that was shared, results
nobody looked at. That luck flatters what was kept is said elsewhere, as is a machine that changed
its speed. Standard library only.
"""

from collections.abc import Iterator, Sequence

from harness.run.records import Record, baseline_of
from harness.run.state import NOT_HELD_AGAINST, fold
from harness.show.sentences import candidates_of, latest_sigma, plural, quoted
from harness.show.stage import in_flight

# Beyond about so many passes over one corpus validation stops ranking as fresh data would.
MANY_EPOCHS = 4
MANY_CRASHES = 0.3  # share of the tries


def doubts(entries: Sequence[dict], records: Sequence[Record]) -> list[str]:
    """Sentences, the weightiest first; empty when the journal gives no reason for doubt."""
    trained = [entry for entry in entries if entry.get("event") == "trained"]
    found = [
        *_doubts_of_noise(entries, records),
        *_doubts_of_trainings(trained, records),
        *_doubts_of_the_machine(trained, entries),
        *_open_questions(entries, records),
    ]
    return list(dict.fromkeys(found))


def _doubts_of_noise(entries: Sequence[dict], records: Sequence[Record]) -> Iterator[str]:
    base = baseline_of(records)
    opened = next((entry for entry in entries if entry.get("event") == "opened"), {})
    if opened.get("prior"):
        prior = quoted(opened["prior"].get("note") or "source not stated", 160)
        measured = f"The prior was measured elsewhere ({prior})."
        yield f"The noise of a run: {fold(entries).noise.words}. {measured}"
    if base and base.n_runs < 3:
        seeds = plural(base.n_runs, "seed")
        yield f"The baseline rests on {seeds}: its mean and sigma are rough."
    if latest_sigma(records) is None and candidates_of(records):
        yield "The noise of a run was never measured, so no gain here can be told from luck."


def _doubts_of_trainings(trained: Sequence[dict], records: Sequence[Record]) -> Iterator[str]:
    tried = candidates_of(records)
    epochs = max((entry.get("epochs") or 0.0 for entry in trained), default=0.0)
    if epochs > MANY_EPOCHS:
        over = f"Trainings passed over the data up to {epochs:.1f} times"
        yield f"{over}: rankings may not hold on fresh text."
    crashed = sum(record.outcome == "crashed" for record in tried)
    if tried and crashed / len(tried) > MANY_CRASHES:
        count = f"{crashed} of {len(tried)} tries crashed"
        yield f"{count}: look at the failures before the next night."


def _doubts_of_the_machine(trained: Sequence[dict], entries: Sequence[dict]) -> Iterator[str]:
    """What happened to trainings that was not the ideas' doing."""
    shared = [entry for entry in trained if entry.get("shared_with")]
    if shared:
        others = {name.rpartition("/")[2] for entry in shared for name in entry["shared_with"]}
        named = ", ".join(quoted(name) for name in sorted(others))
        by_wall = any(entry.get("core_seconds") is None for entry in shared)
        worked = ", which a budget of work does not mind"
        less = ": less was learnt in the same budget" if by_wall else worked
        count = plural(len(shared), "training")
        yield f"{count} shared the device with run {named}{less}."
    repeated = sum(entry.get("status") in NOT_HELD_AGAINST for entry in trained)
    if repeated:
        count = plural(repeated, "training")
        yield f"{count} ended for reasons outside of train.py, and had to be repeated."
    for entry in entries:
        if entry.get("event") == "controlled" and entry.get("status") != "ok":
            numbers = ", ".join(f"{number:04d}" for number in entry.get("suspects") or [])
            yield (
                f"Experiments {numbers} failed alike ({quoted(entry.get('suspected'))}), and then "
                "the best file did, too: the machine's fault. Try them again."
            )


def _open_questions(entries: Sequence[dict], records: Sequence[Record]) -> Iterator[str]:
    """What a person should look at, or wait for."""
    flight = in_flight(entries)
    quarantined = sum(record.outcome == "quarantined" for record in records)
    if quarantined:
        yield (
            f"{plural(quarantined, 'result')} in quarantine, for a person to look at: "
            "`python3 scripts/overnight.py --accept N` or `--refuse N`."
        )
    audits = [entry for entry in entries if entry.get("event") == "audited"]
    disagreed = sum("disagrees" in (entry.get("holdout"), entry.get("unseen")) for entry in audits)
    if disagreed:
        yield (
            f"Private text disagreed with {plural(disagreed, 'gain')}: it may be fitted to the "
            "validation text, or looked up."
        )
    if flight:
        yield f"Experiment {flight.experiment:04d} is not decided yet ({flight.words})."
