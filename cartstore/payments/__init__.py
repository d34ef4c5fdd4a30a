"""Payment gateways: one module each behind one Protocol. Owns nothing of orders or stock.

A gateway turns what its outer system says into one of three verdicts; the store alone decides what a
verdict does to a payment.
"""

from cartstore.payments.gateway import Gateway, Notification, Verdict
from cartstore.payments.simulated import SimulatedGateway

__all__ = ["Gateway", "Notification", "SimulatedGateway", "Verdict"]
