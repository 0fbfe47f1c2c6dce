"""What is to be done and what forbids it. Others take `plan.make_plan`, `schedule.chains` and `card_memory.forecast`."""
