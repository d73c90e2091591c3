"""How much each weight matters: ``(model, batches) -> {canonical name: tensor}``."""

from holdfast.importance.fisher import FisherKind, fisher
from holdfast.importance.mas import mas
from holdfast.importance.taylor import taylor

__all__ = ["FisherKind", "fisher", "mas", "taylor"]
