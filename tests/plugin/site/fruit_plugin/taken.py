"""An attack under a name that mmpoison has already."""

from mmpoison.attacks.catalogue import ATTACKS
from mmpoison.attacks.paper import MultipleTargetLabels

ATTACKS.register("also-registered")(MultipleTargetLabels)
ATTACKS.register("single-target-label")(MultipleTargetLabels)
