"""``gar-env reproduce agreement``: does agreement between tasks help, and which signal finds corrupted ones?"""
