"""python -m dcrafter"""

from dcrafter.cli.app import main

main()
