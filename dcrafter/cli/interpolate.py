"""dcrafter interpolate FIRST LAST [MORE…]"""

from __future__ import annotations

from typing import Annotated, Any

from dcrafter.cli.arguments import ToolCommand, argument
from dcrafter.cli.options import Request, takes_request

EXAMPLES = """
[bold]Examples[/bold]

dcrafter interpolate smile.png laugh.png -p "a smiling girl"

dcrafter interpolate 1.png 2.png 3.png -p "a flower opens" --trim-keyframes

dcrafter interpolate a.png b.png --model 512-interp -n 3 -o between/
"""


class InterpolateCommand(ToolCommand):
    """Says in its usage that there are two pictures at least."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return ["[OPTIONS]", "FIRST LAST [MORE]..."]


@takes_request
def interpolate(
    request: Request,
    images: Annotated[
        list[str] | None,
        argument("FIRST LAST [MORE]", "Two pictures or more: files, http(s) addresses, - for stdin."),
    ] = None,
) -> None:
    """Make a video from one picture to another, or through several.

    The first and the last picture are the video's first and last frame.
    Prints the path of each video; everything else goes to stderr.
    """
    from dcrafter.cli.run import run

    run("interpolate", [images or []], request)
