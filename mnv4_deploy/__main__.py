"""``python -m mnv4_deploy``."""

from mnv4_deploy.cli import main

main()
