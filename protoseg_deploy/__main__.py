"""``python -m protoseg_deploy``: the same as the ``protoseg`` command."""

try:
    from protoseg_deploy.cli import main
except KeyboardInterrupt:
    raise SystemExit(130) from None

if __name__ == "__main__":
    main()
