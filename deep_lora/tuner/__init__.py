"""What PEFT expects of a tuner."""
