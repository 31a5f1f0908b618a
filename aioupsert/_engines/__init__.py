"""The databases: what is sent to each, in which order, and what its answers mean."""
