"""`python -m lipbench.cli`."""

from lipbench.cli.main import main

main()
