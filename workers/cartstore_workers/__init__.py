"""The workers: what carries events from the engine to the record and keeps proving that the two agree."""
