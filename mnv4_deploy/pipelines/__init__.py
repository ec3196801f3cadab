"""The commands from end to end: each composes the stages and owns no step of its own."""
