"""Logit adjustment: a network that does not prefer classes for being frequent."""

from torch import nn

from protoseg_deploy.methods.class_frequencies import ClassFrequencies
from protoseg_deploy.methods.full_size import FullSizeLogits


class LogitAdjustment(nn.Module):
    """Adds to logits what their cross-entropy teaches about the frequency of classes, so that they need not learn it.

    Menon et al., "Long-tail learning via logit adjustment", ICLR 2021. A cross-entropy teaches how probable a class is,
    its frequency `π` included, so that thin and rare classes seldom win a pixel. With ``τ log π`` supplied from
    outside, a network learns ``log p(pixel | class) + (1 - τ) log π``: at τ = 1 what it predicts is meant for classes
    of equal frequency, which mean IoU comes closer to than pixel accuracy does; τ between 0 and 1 is between the two.

    Pseudo-labels have frequencies `ρ` of their own: of another set of images, and without crops drawn for rare
    classes. Their loss would teach ``log p(pixel | class) + log ρ``; ``log ρ - (1 - τ) log π`` is what makes both
    losses agree. All frequencies are running averages over what the losses learn from.

    Args:
        num_classes: C.
        strength: τ.
    """

    def __init__(self, num_classes: int, strength: float) -> None:
        super().__init__()
        self.strength = strength
        self.labels = ClassFrequencies(num_classes)
        self.pseudo_labels = ClassFrequencies(num_classes)

    def for_labels(self, logits: FullSizeLogits) -> FullSizeLogits:
        """What a loss on labels sees."""
        return logits.shifted(self.strength * self.labels.logarithms())

    def for_pseudo_labels(self, logits: FullSizeLogits) -> FullSizeLogits:
        """What a loss on pseudo-labels sees."""
        return logits.shifted(self.pseudo_labels.logarithms() - (1.0 - self.strength) * self.labels.logarithms())
