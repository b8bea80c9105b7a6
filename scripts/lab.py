# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Open the control panel in JupyterLab: sets up what is missing, then hands over to `jupyter lab notebooks/00_lab.ipynb`.

    python3 scripts/lab.py                     here, in the browser of this machine
    python3 scripts/lab.py --remote USER@HOST  on a machine without a screen: prints the ssh line for your own machine
    python3 scripts/lab.py --port 9000         anything else goes to JupyterLab as it is

It listens on this machine alone and asks for a token, which is in the address that it prints.
"""

import sys

from environment.setup import ROOT, become, python_or_exit, say

PORT = "8888"


def main(arguments: list[str]) -> None:
    python = python_or_exit()
    command = ["-m", "jupyterlab", str(ROOT / "notebooks" / "00_lab.ipynb"), "--ip=127.0.0.1"]
    if "--remote" in arguments:
        place = arguments.index("--remote")
        host, arguments = arguments[place + 1], arguments[:place] + arguments[place + 2 :]
        port = arguments[arguments.index("--port") + 1] if "--port" in arguments else PORT
        say(f"on your own machine: ssh -L {port}:localhost:{port} {host}, then open the address below there")
        command += ["--no-browser", "--port-retries=0"]
    become(python, [*command, *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
