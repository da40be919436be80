"""What a candidate of a search has to meet."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What a candidate has to meet.

    Attributes:
        max_risk: Limit of the upper end of the interval of its risk.
        max_accuracy_loss: Accepted loss of accuracy, or None for any.
        budget: Number of candidates, which intervals are corrected for.
    """

    max_risk: float
    max_accuracy_loss: float | None
    budget: int

    def are_met(self, risk: float, accuracy: float, undefended: float) -> bool:
        """Whether a candidate qualifies.

        Args:
            risk: Upper end of the interval of its risk.
            accuracy: Its accuracy.
            undefended: Accuracy of the teacher.
        """
        loss = self.max_accuracy_loss
        return risk <= self.max_risk and (loss is None or accuracy >= undefended - loss)
