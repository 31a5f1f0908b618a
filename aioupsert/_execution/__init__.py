"""What runs a checked call: attempts, batches, transactions."""
