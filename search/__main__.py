"""`python -m search` is `bitfront`."""

from search.cli import main

main()
