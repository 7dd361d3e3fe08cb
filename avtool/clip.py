"""One reader of a clip."""
