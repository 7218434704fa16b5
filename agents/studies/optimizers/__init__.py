"""``gar-env reproduce optimizers``: published rules, searches, cheap rewards, and a table of one group."""
