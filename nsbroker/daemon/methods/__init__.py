"""The methods of the interface, one file a family.  Those that take a target share the steps in `authorization`."""
