"""``python -m protoseg_deploy``: the same as the ``protoseg`` command."""

from protoseg_deploy.cli import main

if __name__ == "__main__":
    main()
