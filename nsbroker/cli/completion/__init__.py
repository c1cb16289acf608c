"""Completion in shells: `command_line` reads what there is from the parsers, a module for each shell writes its script from that,
and `targets` finds the targets that the scripts offer.
"""
