"""What the night learnt: directions of constants, dead ends, importances, and no noise as news."""

import journals

from harness.run.records import records_from_journal
from harness.show.importances import LEAST_TUNED
from harness.show.learnt import say_learnt


def learnt(entries: list[dict]) -> str:
    return say_learnt(entries, records_from_journal(entries))


def night(*tries: dict) -> list[dict]:
    """A journal of these experiments: category, constants_changed, and fields of `decided`."""
    entries = journals.make_journal(len(tries), unfinished=False, crash_rate=0.0, step=0.0)
    told = {name: [e for e in entries if e["event"] == name] for name in ("proposed", "decided")}
    for number, each in enumerate(tries, start=1):
        changed = each.pop("constants_changed", {})
        for entry in told["proposed"]:
            if entry["experiment"] == number:
                entry.update(category=each["category"], constants_changed=changed)
        plain = {
            "decision": "discard",
            "kind": "within noise",
            "status": "ok",
            "threshold": 0.002,
            "val_bpb": 0.9979,
        }
        told["decided"][number].update(plain | each)
    return entries


def test_each_constant_has_its_direction_and_size_the_largest_effect_first():
    text = learnt(
        night(
            {"category": "tune", "constants_changed": {"MATRIX_LR": [0.04, 0.05]}, "gain": 0.0004},
            {
                "category": "tune",
                "constants_changed": {"DEPTH": [8, 9]},
                "gain": 0.02,
                "decision": "keep",
                "kind": "gain",
            },
            {
                "category": "tune",
                "constants_changed": {"MATRIX_LR": [0.04, 0.02]},
                "gain": -0.01,
                "kind": "worse",
            },
            {
                "category": "tune",
                "constants_changed": {"WINDOW": ["S", "L"]},
                "gain": None,
                "val_bpb": None,
                "status": "oom",
            },
            {
                "category": "tune",
                "constants_changed": {"DEPTH": [8, 10], "HEAD_DIM": [64, 128]},
                "gain": -0.001,
            },
        )
    )
    lines = [line for line in text.splitlines() if line.startswith("- `")]
    assert lines == [
        "- `DEPTH` raised: 8 to 9, gain +0.0200, kept as better (0002)",
        "- `MATRIX_LR` lowered: 0.04 to 0.02, gain -0.0100, worse (0003)",
        "- `MATRIX_LR` raised: 0.04 to 0.05, gain +0.0004, within the noise (0001)",
        "- `WINDOW` set otherwise: `S` to `L`, crashed (0004)",
    ]
    assert "- several constants at once, 1 tried: 1 discarded. The best: " in text


def test_many_tries_of_one_constant_are_one_line():
    tries = [
        {"category": "tune", "constants_changed": {"DEPTH": [8, 9 + n]}, "gain": 0.0001 * n}
        for n in range(9)
    ]
    [line] = [line for line in learnt(night(*tries)).splitlines() if line.startswith("- `DEPTH`")]
    assert (
        line.count(" to ") == 3
        and line.endswith("; and 6 more")
        and "8 to 17, gain +0.0008" in line
    )


def test_dead_ends_are_what_lost_beyond_the_noise_and_nothing_else():
    text = learnt(
        night(
            {"category": "architecture", "gain": -0.05, "kind": "worse", "title": "too wide"},
            {"category": "architecture", "gain": -0.0005, "title": "no matter"},
            {
                "category": "optimizer",
                "gain": -0.5,
                "kind": "worse",
                "threshold": None,
                "title": "of unknown noise",
            },
        )
    )
    ends = text.split("**Dead ends**")[1].split("**")[0]
    assert "`too wide` -0.0500 (0001)" in ends and "no matter" not in ends and "unknown" not in ends
    assert "**Dead ends**" not in learnt(night({"category": "architecture", "gain": -0.0005}))


def test_importance_is_told_from_enough_tuned_experiments_on():
    def tuned(count: int) -> str:
        changes = [{"A": [1, 2]}, {"B": [1, 2]}, {"C": [1, 2]}]
        gains = [-0.05, 0.0001, -0.0001]
        tries = [
            {"category": "tune", "constants_changed": changes[n % 3], "gain": gains[n % 3]}
            for n in range(count)
        ]
        return learnt(night(*tries)).split("**Importance of constants**")[1]

    assert f"told from {LEAST_TUNED} tuned experiments on; there are {LEAST_TUNED - 1}." in tuned(
        LEAST_TUNED - 1
    )
    enough = tuned(LEAST_TUNED)
    assert f"of {LEAST_TUNED} tuned experiments" in enough and "(shares of 100%): `A` " in enough


def test_before_an_idea_there_is_nothing():
    for entries in ([], journals.opened_only(), journals.make_journal(0)):
        assert learnt(entries) == ""


def test_names_and_values_of_others_stay_code():
    text = learnt(
        night(
            {"category": "tune", "constants_changed": {"X": ["`a` | <b>\n# no", "b"]}, "gain": 0.0}
        )
    )
    assert "\n# no" not in text and "`'a' / <b> # no` to `b`" in text
