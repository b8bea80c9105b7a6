"""Language models without a model: what a FakeOpenAI answers, to drive nights and simulations.

`Scripted` plays the thirty replies of scripted_replies.py one after the other, mends what is sent
back to it, and repairs its crashes. `Mediocre` never runs out: it changes a number here and there,
sometimes in the code, for no reason, and one answer in four cannot be used. `Steady` is as
mediocre, and says the same of the same journal, however often it is asked: for nights that are
killed. All read the train.py in the prompt as a model does, so their answers fit whatever the night
has come to. By hand, to serve the thirty until Ctrl-C (it says how to start a night with them):

    python tests/support/scripted_researcher.py
"""

import contextlib
import difflib
import random
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for when it is run as a script

from fake_openai import FakeOpenAI, completion
from scripted_replies import REPLIES, ScriptedReply, edited

from harness.search.constants import BEGIN, parse_constants, rewrite_constants
from harness.search.llm.instructions import ASKED
from harness.search.response_model import place, value_at

HEADER = "Title: {}\nHypothesis: {}\nCategory: {}\nExpected delta: -0.001\n\n"


def source_in(body: dict) -> str:
    """The train.py that a prompt shows: the fence that holds a constants block."""
    prompt = body["messages"][1]["content"]
    fences = re.finditer(r"^(```+)python\n(.*?\n)\1$", prompt, re.MULTILINE | re.DOTALL)
    return next(found[2] for found in fences if BEGIN in found[2])


def asks_for_numbers(body: dict) -> bool:
    """Whether the prompt's last section wants values of constants and no other change."""
    return ASKED["tune"] in body["messages"][1]["content"]


def blocks(before: str, after: str, context: int = 3) -> str:
    """The change as SEARCH/REPLACE blocks with some lines around each."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    found = []
    for group in difflib.SequenceMatcher(None, old, new, autojunk=False).get_grouped_opcodes(
        context
    ):
        search, replace = old[group[0][1] : group[-1][2]], new[group[0][3] : group[-1][4]]
        found.append(
            f"<<<<<<< SEARCH\n{''.join(search)}=======\n{''.join(replace)}>>>>>>> REPLACE\n"
        )
    return "\n".join(found)


class Scripted:
    """Plays the named replies in order; gives numbers when numbers are asked for.

    A reply that is refused is given again, well-formed.
    """

    def __init__(self, *names: str) -> None:
        self.left = [REPLIES[name] for name in names or REPLIES]
        self.now: ScriptedReply = self.left[0]
        self.said: list[tuple[str, str]] = []  # (name, "first", "again" or "repair")

    def __call__(self, body: dict, number: int) -> dict | str:
        messages = body["messages"]
        if "# The train.py that failed" in messages[1]["content"]:
            return self._say("repair", self._repair(source_in(body)))
        if len(messages) > 2:
            return self._say("again", self._again(source_in(body)))
        fitting = [
            reply for reply in self.left if (reply.category == "tune") == asks_for_numbers(body)
        ] or self.left
        self.now = fitting[0] if fitting else self.now
        self.left = [reply for reply in self.left if reply is not self.now]
        return self._say("first", completion(self.now.text, finish_reason=self.now.finish_reason))

    def _say(self, how: str, answer: dict | str) -> dict | str:
        self.said.append((self.now.name, how))
        return answer

    def _again(self, source: str) -> str:
        """The same idea against the file that was shown.

        Where it cannot be had there, the same refused answer.
        """
        try:
            target = edited(source, self.now.edits or ())
        except AssertionError:
            target = source
        if target == source:
            return self.now.text
        return HEADER.format(self.now.title, "As before.", self.now.category) + blocks(
            source, target
        )

    def _repair(self, source: str) -> str:
        """Split what the half-done gated layer forgot to split; take the diary's file away.

        Gives up on anything else.
        """
        mended = source.replace(
            "return self.contract(F.silu(self.expand(x)) * self.expand(x))",
            "gate, value = self.expand(x).chunk(2, dim=-1)\n"
            "        return self.contract(F.silu(gate) * value)",
        )
        mended = re.sub(r' *with open\("losses.txt".*\n *diary\.write.*\n', "", mended)
        if mended == source:
            return "GIVE UP: I do not see why it failed."
        return HEADER.format(self.now.title, "Mended.", self.now.category) + blocks(source, mended)


# Places in the template's code where a number may stand; each takes a number from 0 to 1.
SPOTS = (
    (r"F\.relu\(self\.expand\(x\)\)\.square\(\)", "F.leaky_relu(self.expand(x), {0:.3f}).square()"),
    (r"second_moment\.lerp_\(mean_square, [\d.]+\)", "second_moment.lerp_(mean_square, {0:.3f})"),
    (r"UNEMBEDDING_LR \* scale, [\d.]+\)", "UNEMBEDDING_LR * scale, {0:.3f})"),
    (r"SCALAR_LR \* [\d.]+, 0\.0\)", "SCALAR_LR * {0:.3f}, 0.0)"),
    (r"\(1\.0 - share\) \* [\d.]+ \+", "(1.0 - share) * {0:.3f} +"),
    (
        r"self\.unembedding\.weight\.normal_\(std=[\d.]+\)",
        "self.unembedding.weight.normal_(std={0:.3f})",
    ),
    (r"return WEIGHT_DECAY \* \([\d.]+ -", "return WEIGHT_DECAY * ({0:.3f} -"),
    (r"return norm\((?:[\d.]+ \* )?x \+ ngrams\)", "return norm({0:.3f} * x + ngrams)"),
)


class Mediocre:
    """Proposes changes at random, a third of them of constants.

    A quarter of its answers cannot be used.
    """

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(f"mediocre {seed}")

    def __call__(self, body: dict, number: int) -> str:
        source = source_in(body)
        if self.random.random() < 0.25:
            return HEADER.format("Something else", "It may help.", "architecture") + blocks(
                source, source + "\n# more\n"
            )
        if asks_for_numbers(body) or self.random.random() < 1 / 3:
            target, title = self._numbers(source)
            return HEADER.format(title, "It may help.", "tune") + blocks(source, target)
        target, title = self._code(source)
        return HEADER.format(title, "It may help.", "architecture") + blocks(source, target)

    def _numbers(self, source: str) -> tuple[str, str]:
        space = [constant for constant in parse_constants(source).values() if constant.searched]
        chosen = self.random.sample(space, self.random.choice((1, 2)))
        around = [
            place(c, c.value) + self.random.choice((-1, 1)) * self.random.uniform(0.02, 0.2)
            for c in chosen
        ]
        values = {
            c.name: value_at(c, min(max(there, 0.0), 1.0))
            for c, there in zip(chosen, around, strict=True)
        }
        return rewrite_constants(source, values), f"Other values of {' and '.join(values)}"

    def _code(self, source: str) -> tuple[str, str]:
        there = [(old, new) for old, new in SPOTS if len(re.findall(old, source)) == 1]
        old, new = self.random.choice(there)
        text = new.format(self.random.random())
        return re.sub(old, lambda _: text, source), f"Write {text}"


SQUARE = "F.relu(self.expand(x)).square()"
BROKEN = "squared(F.relu(self.expand(x)))"
MENDED = "F.relu(self.expand(x))"


class Steady:
    """Answers by what a prompt shows: the train.py and the attempts.

    When or how often it is asked changes nothing. Each third idea crashes, and is mended.
    """

    def __call__(self, body: dict, number: int) -> str:
        source, prompt = source_in(body), body["messages"][1]["content"]
        if "# The train.py that failed" in prompt:
            target = source.replace(BROKEN, MENDED)
            return HEADER.format("No square", "It should run now.", "architecture") + blocks(
                source, target
            )
        experiments = len(
            re.findall(
                r"^\d+ \| ",
                prompt.partition("# Attempts so far")[2].partition("\n# ")[0],
                re.MULTILINE,
            )
        )
        if experiments % 3 == 2 and source.count(SQUARE) == 1 and not asks_for_numbers(body):
            target = source.replace(SQUARE, BROKEN)
            return HEADER.format("Square elsewhere", "It may help.", "architecture") + blocks(
                source, target
            )
        return Mediocre(f"{source} {experiments} {len(body['messages'])}")(body, number)


def main() -> None:
    researcher = Scripted()
    with FakeOpenAI(researcher) as server:
        print(
            "python -m harness overnight --demo --experiments"
            f" 30 --proposer llm --llm base_url={server.url}",
            flush=True,
        )
        told = 0
        while True:
            time.sleep(1)
            for name, how in researcher.said[told:]:
                print(f"{how}: {name} ({REPLIES[name].form})", flush=True)
            told = len(researcher.said)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
