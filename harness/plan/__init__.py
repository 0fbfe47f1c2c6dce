"""What is to be done and everything that forbids it. Others take `plan.make_plan`, `schedule.chains` and `card_memory.forecast`."""
