"""What a program of `test_output` says; it imports no network."""

import os

from protoseg_deploy.cli.arguments import note, print_table
from protoseg_deploy.errors import DataError


def say_everything():
    """As verbs do, with names from outside."""
    name = os.fsdecode("straße \xff".encode("latin-1")) + "[/red][bold]\x1b[31m\nx\u202e"
    print_table(["class [/red]", "mIoU – % ± ×"], [[name, "–"]], title=f"title {name}")
    note(f"note – {name}")
    raise DataError("– faults", [f"{name}: bad"])
