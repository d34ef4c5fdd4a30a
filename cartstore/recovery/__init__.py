"""What runs after something broke, and what proves that nothing did: the gate's recovery and reconcile."""
