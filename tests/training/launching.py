"""Starting two processes of a training."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def write_recipe(path, recipe):
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    return path


def start(arguments, folder, *torchrun_options, check=True):
    """Two processes by `torchrun`, until they end."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *torchrun_options]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launcher, *arguments], capture_output=True, text=True, env=environment, cwd=folder)
    if check:
        assert done.returncode == 0, done.stderr[-4000:]
    return done
