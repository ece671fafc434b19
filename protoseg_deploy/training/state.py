"""The state of a training run: whether it can be used, what a checkpoint and the summary hold, how a run resumes it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from protoseg_deploy.distributed import world
from protoseg_deploy.errors import ProtosegError, UsageError
from protoseg_deploy.models.tensor_checks import NotFiniteError, first_fault
from protoseg_deploy.training.processes import agreed, restore_random_state
from protoseg_deploy.training.recording import Best

if TYPE_CHECKING:
    from protoseg_deploy.training.loop import Trainer


def require_finite(trainer: "Trainer") -> None:
    """Stop in every process where a network cannot be used any more in one: it is neither evaluated nor saved."""
    networks = {"student": trainer.student, **({"teacher": trainer.ema.network} if trainer.ema else {})}
    tensors = {f"{name}.{key}": t for name, network in networks.items() for key, t in network.state_dict().items()}
    fault = first_fault(tensors)
    if not agreed(int(fault is not None), trainer.compute.device):
        return
    kept = (
        f"{trainer.run.best} of step {trainer.best.step} is kept"
        if trainer.best.step
        else "no network was saved before"
    )
    raise NotFiniteError(
        f"training has diverged: after step {trainer.step} {fault or 'a network holds NaN or infinity'}; {kept}",
        "Lower train.lr, set train.clip_grad_norm=1, or train in another precision. Checkpoints made before are "
        "kept: --resume continues from the newest.",
    )


def state_of(trainer: "Trainer") -> dict[str, Any]:
    """What a checkpoint holds but for random numbers, which are every process's own."""
    return {
        "step": trainer.step,
        "student": trainer.student.state_dict(),
        "teacher": trainer.ema.state_dict() if trainer.ema else None,
        "method_name": trainer.method.name,
        "method": trainer.method.state_dict(),
        **trainer.stepper.state_dict(),
        "best": {"miou_percent": trainer.best.miou_percent, "step": trainer.best.step},
        "latest": trainer.latest,
        "seconds": trainer.seconds,
        "peak_memory_mib": trainer.peak_memory_mib,
    }


def load_state(trainer: "Trainer", state: dict[str, Any], path: Path) -> None:
    """Make a new trainer the one that has written a checkpoint.

    Args:
        trainer: of the same recipe.
        state: what the checkpoint holds, checked by `require_state`.
        path: the checkpoint, for what is said of it.

    Raises:
        UsageError: another method has written it.
        ProtosegError: it does not fit the recipe.
    """
    if state.get("method_name", trainer.method.name) != trainer.method.name:
        raise UsageError(
            f"{trainer.run.folder} was trained by {state['method_name']}, not by {trainer.method.name}",
            "A student of `protoseg distill` is resumed by it, too.",
        )
    try:
        trainer.student.load_state_dict(state["student"])
        trainer.method.load_state_dict(state["method"])
        if trainer.ema:
            trainer.ema.load_state_dict(state["teacher"])
        trainer.stepper.load_state_dict(state)
        trainer.best = Best(**state["best"])
        trainer.step, trainer.latest, trainer.seconds = state["step"], state["latest"], state["seconds"]
        trainer.peak_memory_mib = state.get("peak_memory_mib", 0.0)
        restore_random_state(state["random"], trainer.compute.device)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
        raise ProtosegError(
            f"{path} does not fit the recipe of its run: {reason[:200]}",
            "Put back the recipe and the checkpoint that belong together, or start again in another --run folder.",
        ) from None


def summary_of(trainer: "Trainer") -> dict[str, Any]:
    """What the run came to; all of it comes from the last checkpoint."""
    return {
        "method": trainer.method.name,
        "steps": trainer.step,
        "best_miou_percent": trainer.best.miou_percent,
        "best_step": trainer.best.step,
        "last_miou_percent": trainer.latest["miou_percent"],
        "last_student_miou_percent": trainer.latest["student_miou_percent"],
        "last_iou_percent": trainer.latest["iou_percent"],
        "labeled_images": len(trainer.sets.labeled),
        "unlabeled_images": len(trainer.batches.unlabeled),
        "train_seconds": trainer.seconds,
        "peak_memory_mib": round(trainer.peak_memory_mib, 1),
        "device": trainer.compute.device.type,
        "processes": world().size,
    }
