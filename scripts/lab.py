# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Open the control panel in JupyterLab: sets up what is missing, then hands over to `jupyter lab`.

    python3 scripts/lab.py                     here, in the browser of this machine
    python3 scripts/lab.py --remote USER@HOST  on a machine without a screen: prints the ssh line for your own machine
    python3 scripts/lab.py --port 9000         anything else goes to JupyterLab as it is

It listens on this machine alone and asks for a token, which is in the address that it prints.
"""

import argparse
import sys

from environment.setup import ROOT, become, python_or_exit, say


def main(arguments: list[str]) -> None:
    options = argparse.ArgumentParser(usage=__doc__, add_help=False, allow_abbrev=False)
    options.add_argument("--remote", metavar="USER@HOST")
    options.add_argument("--port", default="8888")
    given, others = options.parse_known_args(arguments)
    python = python_or_exit()
    panel = str(ROOT / "notebooks" / "00_lab.ipynb")
    # Its root is the checkout: else it would be notebooks/, and links to results/ lead out of it.
    command = ["-m", "jupyterlab", panel, f"--ServerApp.root_dir={ROOT}"]
    command += ["--ip=127.0.0.1", "--port=" + given.port]
    if given.remote:
        say(
            f"on your own machine: ssh -L {given.port}:localhost:{given.port} {given.remote}, then open the address below there"
        )
        command += ["--no-browser", "--port-retries=0"]
    become(python, [*command, *others])


if __name__ == "__main__":
    main(sys.argv[1:])
