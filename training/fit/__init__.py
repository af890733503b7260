"""How it learns: batches, loss, optimizers, schedules, epochs and stages."""
