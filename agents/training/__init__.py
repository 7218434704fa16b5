"""``gar-env train``: one controller on one environment, logged, saved, resumed."""
