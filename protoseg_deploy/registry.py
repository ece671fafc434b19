"""Kinds of things that can be added from outside: methods, decoders, trackers, by a decorator or by an entry point."""

from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

from protoseg_deploy.errors import UsageError

Class = TypeVar("Class", bound=type)


class Registry:
    """Classes by name. Names are known at once, the modules behind them are imported when a class is asked for.

    Args:
        kind: for messages.
        built_in: ``module:Class`` by name.
        group: of the entry points of other packages, each named as its class is to be.
    """

    def __init__(self, kind: str, built_in: Mapping[str, str], group: str) -> None:
        self.kind, self.group = kind, group
        self._built_in = {name: EntryPoint(name, where, group) for name, where in built_in.items()}
        self.registered: dict[str, Any] = {}

    def names(self) -> tuple[str, ...]:
        """All of them, the built-in ones first."""
        return tuple(dict.fromkeys((*self._built_in, *self.registered, *_installed(self.group))))

    def get(self, name: str) -> Any:
        """The class of a name.

        Raises:
            UsageError: there is none, or the package that has it cannot be imported.
        """
        if name in self.registered:
            return self.registered[name]
        entry = self._built_in.get(name) or _installed(self.group).get(name)
        if entry is None:
            raise UsageError(f"no {self.kind} named {name!r}", f"Available: {', '.join(self.names())}.")
        try:
            found = entry.load()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"the {self.kind} {name} ({entry.value}) cannot be imported: {error}", "Install its package again."
            ) from None
        return found

    def register(self, name: str) -> Callable[[Class], Class]:
        """Decorator: make a class known by a name of its own, in this process.

        Raises:
            ValueError: the name is taken.
        """

        def add(found: Class) -> Class:
            if name in self.names():
                raise ValueError(f"there is a {self.kind} named {name!r} already")
            self.registered[name] = found
            return found

        return add


@cache
def _installed(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


METHODS = Registry(
    "method",
    {
        "supervised": "protoseg_deploy.methods.base:Supervised",
        "fixmatch": "protoseg_deploy.methods.fixmatch:FixMatch",
        "unimatch": "protoseg_deploy.methods.unimatch:UniMatch",
        "unimatch_v2": "protoseg_deploy.methods.unimatch:UniMatchV2",
        "corrmatch": "protoseg_deploy.methods.corrmatch:CorrMatch",
        "prototype": "protoseg_deploy.methods.fixmatch:FixMatch",
    },
    "protoseg_deploy.methods",
)
"""Classes of `protoseg_deploy.methods.Method` by their name in recipes."""

DECODERS = Registry(
    "decoder",
    {
        "deeplabv3plus": "protoseg_deploy.models.decoders:DeepLabV3Plus",
        "lraspp": "protoseg_deploy.models.decoders:LRASPP",
        "fpn_lite": "protoseg_deploy.models.decoders:FPNLite",
        "fpn": "protoseg_deploy.models.decoders:SemanticFPN",
        "dpt": "protoseg_deploy.models.dpt:DPT",
    },
    "protoseg_deploy.decoders",
)
"""Classes of `protoseg_deploy.models.Decoder` by their name in recipes."""

TRACKERS = Registry(
    "tracker",
    {
        "tensorboard": "protoseg_deploy.training.trackers.tensorboard:TensorBoardTracker",
        "csv": "protoseg_deploy.training.trackers.csv_file:CsvTracker",
        "mlflow": "protoseg_deploy.training.trackers.mlflow_store:MlflowTracker",
        "wandb": "protoseg_deploy.training.trackers.wandb_run:WandbTracker",
    },
    "protoseg_deploy.trackers",
)
"""Classes of `protoseg_deploy.training.trackers.Tracker` by their name in recipes."""

register_method = METHODS.register
register_decoder = DECODERS.register
register_tracker = TRACKERS.register
