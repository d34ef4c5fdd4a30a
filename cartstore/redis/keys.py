"""The only speller of keys. What each holds is in docs/keys.md; scripts spell the computed ones with the
prefix of the gate key, and tests/tidy holds both spellings together."""

from __future__ import annotations

from cartstore.model import Partition


class Keys:
    """Key names of one partition, all under its hash tag."""

    def __init__(self, partition: Partition) -> None:
        self.prefix = partition.tag + ":"
        self.gate = self.prefix + "gate"
        self.outbox = self.prefix + "outbox"
        self.holding = self.prefix + "holding"
        self.due = self.prefix + "due"
        self.activity = self.prefix + "activity"
        self.unloaded = self.prefix + "unloaded"
        self.beats = self.prefix + "beats"
        self.archived_channel = self.prefix + "archived"
        """Pub/sub channel on which the drain announces its cursor."""

    def cart(self, cart_id: str) -> str:
        return f"{self.prefix}cart:{cart_id}"

    def sku(self, sku: str) -> str:
        return f"{self.prefix}sku:{sku}"

    def holds(self, sku: str) -> str:
        return f"{self.prefix}holds:{sku}"

    def bought(self, sku: str, identity: str) -> str:
        return f"{self.prefix}bought:{sku}:{identity}"

    def payment(self, payment_id: str) -> str:
        return f"{self.prefix}payment:{payment_id}"

    def order(self, order_id: str) -> str:
        return f"{self.prefix}order:{order_id}"

    def orders(self, cart_id: str) -> str:
        return f"{self.prefix}orders:{cart_id}"

    def used(self, bucket: int) -> str:
        return f"{self.prefix}used:{bucket}"

    def reference(self, sku: str, reference: str) -> str:
        return f"{self.prefix}reference:{sku}:{reference}"
