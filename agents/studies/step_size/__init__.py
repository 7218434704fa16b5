"""Learned step-size controllers: Daniel, Taylor & Nowozin (2016), beside schedules and other optimizers."""
