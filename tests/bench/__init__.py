"""`make bench`: nsbroker beside others, measured in one run on one machine.  Read the ratios, not the seconds."""
