"""`make bench`: nsbroker compared with other programs, in one run on one machine.  Read the ratios, not the seconds."""
