"""From what to how: TensorFunctions to loop IR, by schedules that are data."""
