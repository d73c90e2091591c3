"""How much each weight matters: ``(model, batches) -> {canonical name: tensor}``."""

from holdfast.importance.fisher import Kind as FisherKind
from holdfast.importance.fisher import fisher
from holdfast.importance.mas import mas
from holdfast.importance.taylor import taylor

__all__ = ["FisherKind", "fisher", "mas", "taylor"]
