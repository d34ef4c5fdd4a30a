"""Property tests: engines driven together through random histories with time moving."""
