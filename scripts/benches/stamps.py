"""One start of a training, stamped.


    python scripts/benches/stamps.py LAUNCHED TRAIN_PY REQUEST STEPS

In: when this process was launched (time.monotonic of its parent), a train.py and a request as the
runner writes it. Out: one line of JSON, [part, seconds, CPU seconds] in order, each from the stamp
before to this one, so that they add up to the whole. The same code runs as in a real training,
train.py's own `train()`; a stamp stands behind each call below that the file has, and what it has
not counts to the next. Ends after STEPS steps and writes no weights.
"""

import json
import os
import sys
import time


class Stamps:
    """Parts so far, each with the seconds since the part before."""

    def __init__(self, launched: float) -> None:
        self.parts: list[tuple[str, float, float]] = []
        self.last = (launched, 0.0)

    def __call__(self, part: str) -> None:
        now = (time.monotonic(), time.process_time())
        self.parts.append((part, now[0] - self.last[0], now[1] - self.last[1]))
        self.last = now

    def behind(self, owner: object, name: str, part: str) -> None:
        """Have a function of a module or class stamp when it returns."""
        plain = getattr(owner, name, None)
        if plain is None:
            return

        def stamped(*arguments, **options):
            result = plain(*arguments, **options)
            self(part)
            return result

        setattr(owner, name, stamped)


def main() -> None:
    launched, train_py, request, steps = sys.argv[1:]
    stamps = Stamps(float(launched))
    stamps("interpreter")
    import torch  # noqa: F401

    stamps("import of torch")
    import harness.training.launch  # noqa: F401
    from harness.data.loader import TrainRows
    from harness.scoring.server import import_candidate
    from harness.training import attention, session

    stamps("import of the harness")
    os.environ[session.RUN_VARIABLE] = request
    os.environ[session.EVENTS_VARIABLE] = str(os.open(os.devnull, os.O_WRONLY))
    module = import_candidate(train_py)
    stamps("import of train.py")
    stamps.behind(session, "detect_device", "device detection")
    stamps.behind(attention, "select", "attention self-test")
    stamps.behind(module, "open_session", "session")
    stamps.behind(module, "build_model", "model")
    stamps.behind(module, "Optimizer", "optimizer")
    stamps.behind(session.Session, "start", "warm-up")
    log = session.Session.log

    def log_until_the_end(self, step: int, *arguments, **options) -> None:
        log(self, step, *arguments, **options)
        stamps(f"step {step + 1}")
        if step + 1 == int(steps):
            print(json.dumps(stamps.parts), flush=True)
            os._exit(0)  # as it is: what follows is no start

    session.Session.log = log_until_the_end
    # No runner hands them over here.
    session.Session._receive_rows = lambda self: TrainRows.of_folder(self.request["train_dir"])
    module.train()


if __name__ == "__main__":
    main()
