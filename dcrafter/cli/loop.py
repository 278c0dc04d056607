"""dcrafter loop IMAGE…"""

from __future__ import annotations

from dcrafter.cli.options import Images, Request, takes_request

EXAMPLES = """
[bold]Examples[/bold]

dcrafter loop sea.jpg -p "waves" -f gif

dcrafter loop sea.jpg -p "waves" --repeat 4 -o sea.mp4
"""


@takes_request
def loop(
    request: Request,
    images: Images = None,
) -> None:
    """Make pictures move for ever: each video ends where it begins.

    Prints the path of each video; everything else goes to stderr.
    """
    from dcrafter.cli.run import run

    run("loop", [[image] for image in images or []], request)
