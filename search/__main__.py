"""`python -m search` is `bitfront`."""

from search.cli.app import main

main()
