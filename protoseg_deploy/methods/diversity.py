"""A force between the prototypes of a class: left alone they tend to collapse onto each other."""

import torch
from torch import Tensor
from torch.nn import functional as F


def pushed_apart(prototypes: Tensor, strength: float) -> Tensor:
    """``normalise(P_k - strength · Σ_{j≠k} relu(cos(P_k, P_j)) P_j)`` within each class, all at once.

    The force grows with the cosine, and prototypes at right angles or farther leave each other alone. Of two in the
    very same place neither moves: there is no direction to go. Ours, no publication.

    Args:
        prototypes: ``[C,K,D]`` of any length; only directions push, and lengths stay.
        strength: 0 changes nothing.
    """
    directions = F.normalize(prototypes, dim=-1)
    cosines = directions @ directions.transpose(1, 2)
    others = 1.0 - torch.eye(prototypes.shape[1], device=prototypes.device)
    pushed = F.normalize(directions - strength * ((cosines.relu() * others) @ directions), dim=-1)
    lengths: Tensor = torch.linalg.vector_norm(prototypes, dim=-1, keepdim=True)
    return pushed * lengths
