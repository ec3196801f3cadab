"""``python -m mnv4_deploy``."""

from mnv4_deploy.cli.app import main

main()
