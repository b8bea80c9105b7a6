"""The ledger and the budgets, without a server."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from checkout import TEMPLATE

from harness.search.llm.exchanges import Exchanges, estimate_tokens, read_ledger
from harness.search.llm.failures import LlmError
from harness.search.llm.options import parse_options

# 1000 tokens by our count.
BODY = {"model": "m", "messages": [{"role": "user", "content": "x" * 3000}]}


def open_exchanges(folder, options="max_output_tokens=500", experiment=1):
    read = parse_options(f"base_url=http://127.0.0.1:1/v1 {options}", environment={})
    return Exchanges(
        folder / f"exp-{experiment}",
        folder / "llm.jsonl",
        read,
        {"experiment": experiment, "attempt": 0},
    )


def exchange(exchanges, prompt_tokens=1000, completion_tokens=100):
    number = exchanges.begin(BODY)
    exchanges.save_reply(number, 200, "{}")
    exchanges.answered(number, prompt_tokens, completion_tokens, "")


@pytest.mark.parametrize(
    ("budget", "expected"),
    [  # each request takes 1100 tokens (0.0012 USD) and may take 1500 (0.002 USD)
        # 3300 are spent, 1500 more fit; 4400 are spent, 1500 more do not.
        ("budget_tokens=5000", 4),
        ("budget_tokens=1499", 0),
        ("budget_tokens=1500", 1),
        ("budget_usd=0.0055", 3),
        ("budget_requests=2", 2),
        ("budget_tokens=5000 budget_requests=3", 3),
    ],
)
def test_no_budget_is_ever_overrun(tmp_path, budget, expected):
    options = f"max_output_tokens=500 price_input=1 price_output=2 {budget}"
    made = 0
    with pytest.raises(LlmError, match=r"; give more with --llm") as error:
        for made in range(10):  # noqa: B007 - how far it came is what is asked
            # Each in its own process, as it were.
            exchange(open_exchanges(tmp_path, options, experiment=made))
    assert error.value.kind == "budget"
    assert made == expected
    usage = read_ledger(tmp_path / "llm.jsonl").usage()
    assert (usage.requests, usage.tokens) == (expected, expected * 1100)


def test_hours_are_counted_from_the_first_request(tmp_path):
    exchange(open_exchanges(tmp_path, "budget_hours=2"))
    exchange(open_exchanges(tmp_path, "budget_hours=2"))
    ledger = tmp_path / "llm.jsonl"
    earlier = (datetime.now(UTC) - timedelta(hours=2.1)).isoformat()
    first, *rest = [json.loads(line) for line in ledger.read_text().splitlines()]
    ledger.write_text(
        "".join(json.dumps(entry) + "\n" for entry in ({**first, "time": earlier}, *rest))
    )
    with pytest.raises(LlmError, match="the 2 hours of budget_hours"):
        open_exchanges(tmp_path, "budget_hours=2").begin(BODY)
    exchange(open_exchanges(tmp_path, "budget_hours=3"))


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path):
    exchange(open_exchanges(tmp_path))
    ledger = tmp_path / "llm.jsonl"
    whole = ledger.read_bytes()
    for cut in (1, 10, len(whole) // 4):
        ledger.write_bytes(whole + whole.splitlines()[-1][:-cut])
        open_exchanges(tmp_path).begin(BODY)
        usage = read_ledger(ledger).usage()
        assert (usage.requests, usage.tokens) == (2, 1100 + 1500)


def test_a_proposal_whose_folder_is_gone_still_counts(tmp_path):
    for _ in range(3):
        exchanges = open_exchanges(tmp_path)
        exchange(exchanges)
        for path in exchanges.folder.iterdir():
            path.unlink()
    assert read_ledger(tmp_path / "llm.jsonl").usage().requests == 3


def test_prices_given_later_count_for_what_was_spent_before(tmp_path):
    exchange(open_exchanges(tmp_path))
    assert read_ledger(tmp_path / "llm.jsonl").usage().cost_usd is None
    with pytest.raises(
        LlmError,
        match=r"0.0012 of budget_usd=0.003 are spent, and the next request can cost 0.0020",
    ):
        open_exchanges(
            tmp_path, "max_output_tokens=500 price_input=1 price_output=2 budget_usd=0.003"
        ).begin(BODY)


def test_a_free_server_costs_nothing_and_that_is_known(tmp_path):
    exchange(open_exchanges(tmp_path, "price_input=0 price_output=0"))
    assert read_ledger(tmp_path / "llm.jsonl").usage().cost_usd == 0


def test_a_request_that_may_have_been_answered_counts_in_full_and_one_that_was_not_counts_as_none(
    tmp_path,
):
    exchanges = open_exchanges(tmp_path)
    exchanges.failed(exchanges.begin(BODY), LlmError("stalled", "no word", billed=True))
    exchanges.failed(exchanges.begin(BODY), LlmError("server", "refused"))
    usage = read_ledger(tmp_path / "llm.jsonl").usage()
    assert (usage.requests, usage.tokens, usage.estimated) == (2, 1500, True)
    assert exchanges.usage()["requests"] == 2


def test_only_an_answered_request_is_found_again(tmp_path):
    exchanges = open_exchanges(tmp_path)
    for status, text in ((500, "oops"), (200, "first"), (200, "second")):
        exchanges.save_reply(exchanges.begin(BODY), status, text)
    exchanges.begin(BODY)
    assert [text for _, text in open_exchanges(tmp_path).saved_replies(BODY)] == ["first", "second"]
    assert open_exchanges(tmp_path).saved_replies(BODY | {"temperature": 1.0}) == []


def test_what_a_server_did_not_take_is_forgotten_when_the_night_is_started_again(tmp_path):
    """By then another server, or a newer one, may be there under the same name."""
    open_exchanges(tmp_path, experiment=3).drop("m", "stream")
    open_exchanges(tmp_path, experiment=5).drop("m", "temperature")
    later = open_exchanges(tmp_path, experiment=6)
    assert later.dropped("m") == {"stream", "temperature"} and later.dropped("n") == set()
    later.since = 4
    assert later.dropped("m") == {"temperature"}
    later.since = 6
    assert later.dropped("m") == set()


def test_no_ledger_is_an_empty_one(tmp_path):
    ledger = read_ledger(tmp_path / "llm.jsonl")
    usage = ledger.usage()
    assert (usage.requests, usage.tokens, usage.cost_usd, usage.estimated, ledger.began) == (
        0,
        0,
        None,
        False,
        None,
    )
    assert open_exchanges(tmp_path).usage()["requests"] == 0


def test_our_count_of_tokens_is_rather_too_high():
    source = TEMPLATE
    assert len(source) / 4.5 < estimate_tokens(source) < len(source) / 2.5
    assert estimate_tokens("ü") == 1
