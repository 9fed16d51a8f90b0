"""JSON logs on stderr, one object a line."""
