"""dcrafter animate IMAGE…"""

from __future__ import annotations

from dcrafter.cli.options import Images, Request, takes_request

EXAMPLES = """
[bold]Examples[/bold]

dcrafter animate cat.png -p "cat yawning"

dcrafter animate cat.png -p "cat yawning" --motion high -n 3 -o cats/

dcrafter animate cat.png -p "cat walking" --segments 3 --color-match

dcrafter animate cat.png --from cat.mp4 --steps 100 -o finer.mp4

dcrafter animate *.jpg -p "gentle wind" -f gif --model 512 --seed 7

curl -s https://example.org/cat.jpg | dcrafter animate - -o - > cat.mp4
"""


@takes_request
def animate(
    request: Request,
    images: Images = None,
) -> None:
    """Make pictures move: each becomes a video that begins with it.

    Prints the path of each video; everything else goes to stderr. Every option
    also reads an environment variable, such as DCRAFTER_MODEL for --model.
    """
    from dcrafter.cli.run import run

    run("animate", [[image] for image in images or []], request)
